/*
 * pass.c - a whole batch: pictures through ViT and abstractor, rows through the language model, and
 * back as far down as something trains; in one part over the pool, or in parts that each have a thread.
 */
#include "training/pass.h"

#include <stdlib.h>

/* Does anything between these two names' parts train? */
static bool any_trains(const owl *m, const param *from, const param *to) {
    bool inside = false;
    for (int i = 0; i < m->params.n; i++) {
        const param *p = m->params.item[i];
        if (p == from) inside = true;
        if (p == to) return false;
        if (inside && p->grad) return true;
    }
    return false;
}

static bool vit_trains(const owl *m) {
    return m->version && any_trains(m, m->cls, m->query);
}
static bool visual_trains(const owl *m) {
    return m->version && any_trains(m, m->cls, m->embed);
}

/* ---- parts ---- */

/* Some of the samples, and what their passes keep. */
struct pass_part {
    ty_pool *pool; /* of one thread: its own, as its arena is */
    ty_arena *arena;
    train_run r;
    owl_batch b;
    vit_pass vit;
    abstractor_pass abstractor;
    llm_pass llm;
    float *d; /* the gradient of the last thing that ran forward, where that is not in its pass */
    float *d_tokens; /* of the visual tokens */
    double loss;
};

typedef struct way way;
typedef void way_step(pass_part *p, const way *w, int i);

/* A batch on its way: all parts do a step before any does the next. */
struct way {
    train_run *r;
    const owl *m;
    const owl_batch *b;
    float weight;
    bool backward, visual;
    pass_part *part;
    int n;
    weight_grads **later; /* [n] what each part has noted */
    way_step *step;
    int i;
};

static void step_task(void *ctx, int task, int member) {
    const way *w = ctx;
    (void)member;
    if (w->part[task].r.st == TY_OK) w->step(&w->part[task], w, w->i);
}

static void each(way *w, way_step *step, int i) {
    if (w->r->st != TY_OK) return;
    w->step = step;
    w->i = i;
    ty_pool_run(w->n > 1 ? w->r->pool : NULL, w->n, step_task, w);
    for (int k = 0; k < w->n && w->r->st == TY_OK; k++) {
        w->r->st = w->part[k].r.st;
        w->r->err = w->part[k].r.err;
    }
}

/* What the parts noted goes into the parameters; first: those from it on are complete then (NULL: not yet). */
static void add_weight_grads(way *w, const param *first) {
    train_run *r = w->r;
    if (r->st != TY_OK) return;
    op_fail(r, weight_grads_add(w->later, w->n, r->pool, r->products, &r->flops, &r->err));
    if (r->st == TY_OK && first && r->complete) r->complete(r->ctx, first);
}

/* ---- which parts ---- */

/* Models up to this width lose more by threads that meet than by smaller products, if a part has so many rows. */
enum { SMALL = 512, PART_ROWS = 64 };

/* Sample that part i of n begins with: the first whose middle lies behind i / n of all rows. */
static int first_sample(const owl_batch *b, int i, int n) {
    int64_t before = 0;
    int s = 0;
    for (; s < b->n_sample; s++) {
        int64_t mine = owl_batch_rows(b, s);
        if ((2 * before + mine) * n > 2 * (int64_t)b->n_row * i) break;
        before += mine;
    }
    return s;
}

/* Of n parts none has much more than its share. */
static bool is_even(const owl_batch *b, int n) {
    for (int i = 0; i < n; i++) {
        int64_t rows = 0;
        int end = first_sample(b, i + 1, n);
        for (int k = first_sample(b, i, n); k < end; k++) rows += owl_batch_rows(b, k);
        if (rows == 0 || rows * n > b->n_row + b->n_row / 5) return false;
    }
    return true;
}

static int widest(const owl *m) {
    int w = m->llm.width;
    if (m->version && m->vit.width > w) w = m->vit.width;
    if (m->version && m->abstractor.width > w) w = m->abstractor.width;
    return w;
}

/* Dropout draws by a row's place in the batch, and bf16 products pair rows: there a part would change bits. */
static int how_many(const train_run *r, const owl *m, const owl_batch *b) {
    int n = ty_pool_size(r->pool);
    if (r->lora_dropout > 0 || r->products != TY_PRODUCTS_F32) return 1;
    if (r->parts > 0) {
        n = n < r->parts ? n : r->parts;
        n = n < b->n_sample ? n : b->n_sample;
        return is_even(b, n) ? n : 1;
    }
    bool worth = n > 1 && n <= b->n_sample && widest(m) <= SMALL && b->n_row >= n * PART_ROWS;
    return worth && is_even(b, n) ? n : 1;
}

/* Parts stay: their memory is warm then. */
static ty_status have_parts(train_run *r, int n, ty_err *err) {
    if (r->n_part >= n) return TY_OK;
    pass_part *p = realloc(r->part, (size_t)n * sizeof *p);
    if (!p) return ty_fail(err, TY_ENOMEM, "no memory for %d parts", n);
    r->part = p;
    for (; r->n_part < n; r->n_part++) {
        p = &r->part[r->n_part];
        *p = (pass_part){.arena = ty_arena_create(PASS_ARENA_BLOCK)};
        ty_status st = p->arena ? ty_pool_create(&p->pool, 1, err)
                                : ty_fail(err, TY_ENOMEM, "no memory for %d parts", n);
        if (st == TY_OK) continue;
        ty_arena_destroy(&p->arena);
        return st;
    }
    return TY_OK;
}

void train_run_clear(train_run *r) {
    for (int i = 0; i < r->n_part; i++) {
        ty_arena_destroy(&r->part[i].arena);
        ty_pool_destroy(&r->part[i].pool);
        weight_grads_clear(&r->part[i].r.later);
    }
    free(r->part);
    weight_grads_clear(&r->later);
    r->part = NULL;
    r->n_part = 0;
}

/* A part's run: the pass's, but for where it works and what it notes. */
static void set_out(train_run *r, pass_part *p, bool alone) {
    train_run mine = *r;
    mine.part = NULL;
    mine.later = p->r.later;
    mine.later.n = 0;
    mine.flops = 0;
    if (!alone) {
        mine.pool = p->pool;
        mine.arena = p->arena;
        ty_arena_reset(mine.arena);
    }
    *p = (pass_part){.pool = p->pool, .arena = p->arena, .r = mine};
}

/* One part has the whole pool and the pass's own arena. */
static ty_status cut(train_run *r, const owl *m, const owl_batch *b, way *w, ty_err *err) {
    int visual_rows = m->version ? m->abstractor.n_query + 1 : 0, n = how_many(r, m, b);
    int64_t side = m->vit.image_size;
    ty_status st = have_parts(r, n, err);
    w->part = r->part;
    w->n = n;
    w->later = ty_arena_array(r->arena, (size_t)n, sizeof *w->later);
    if (st == TY_OK && !w->later) st = ty_fail(err, TY_ENOMEM, "no memory for %d parts", n);
    for (int i = 0; i < n && st == TY_OK; i++) {
        pass_part *p = &w->part[i];
        int first = first_sample(b, i, n);
        set_out(r, p, n == 1);
        w->later[i] = &p->r.later;
        if (n == 1)
            p->b = *b;
        else
            st = owl_batch_part(b, first, first_sample(b, i + 1, n) - first, visual_rows,
                                3 * side * side, p->arena, &p->b, err);
    }
    return st;
}

/* ---- steps ---- */

static void see(pass_part *p, const owl *m) {
    vit_forward(&p->r, m, p->b.pixels, p->b.n_picture, &p->vit);
    if (p->r.st == TY_OK)
        abstractor_forward(&p->r, m, p->vit.features, p->b.n_picture, owl_patches(m) + 1,
                           &p->abstractor);
}

static void vit_begin(pass_part *p, const way *w, int i) {
    (void)i;
    vit_back_begin(&p->r, w->m, &p->vit, p->d);
}

static void vit_layer(pass_part *p, const way *w, int i) {
    vit_back_layer(&p->r, w->m, &p->vit, i);
}

static void vit_end(pass_part *p, const way *w, int i) {
    (void)i;
    vit_back_end(&p->r, w->m, &p->vit);
}

/* From the gradients of features, each part's d, down to the pixels. */
static void vit_down(way *w) {
    const owl *m = w->m;
    each(w, vit_begin, 0);
    add_weight_grads(w, NULL);
    for (int i = m->vit.n_layer - 1; i >= 0; i--) {
        each(w, vit_layer, i);
        add_weight_grads(w, m->vit_layer[i].before_attention.w);
    }
    each(w, vit_end, 0);
    add_weight_grads(w, NULL);
    for (int i = 0; i < w->n && w->r->st == TY_OK; i++) vit_add_embedding_grads(m, &w->part[i].vit);
}

static void abstractor_begin(pass_part *p, const way *w, int i) {
    (void)i;
    abstractor_back_begin(&p->r, w->m, &p->abstractor, p->d_tokens, vit_trains(w->m));
    p->d = p->abstractor.d_features;
}

static void abstractor_layer(pass_part *p, const way *w, int i) {
    abstractor_back_layer(&p->r, w->m, &p->abstractor, i);
}

/* From the gradients of the visual tokens. */
static void visual_down(way *w) {
    const owl *m = w->m;
    each(w, abstractor_begin, 0);
    add_weight_grads(w, NULL);
    for (int i = 0; i < w->n && w->r->st == TY_OK; i++)
        abstractor_add_end_grads(m, &w->part[i].abstractor);
    for (int i = m->abstractor.n_layer - 1; i >= 0; i--) {
        each(w, abstractor_layer, i);
        add_weight_grads(w, m->abstractor_layer[i].norm1.w);
    }
    for (int i = 0; i < w->n && w->r->st == TY_OK; i++)
        abstractor_add_query_grads(m, &w->part[i].abstractor);
    if (vit_trains(m)) vit_down(w);
}

static void llm_begin(pass_part *p, const way *w, int i) {
    (void)i;
    llm_back_begin(&p->r, w->m, &p->llm);
}

static void llm_layer(pass_part *p, const way *w, int i) {
    llm_back_layer(&p->r, w->m, &p->llm, i);
}

static void llm_tokens(pass_part *p, const way *w, int i) {
    int64_t rows = (int64_t)p->b.n_picture * (w->m->abstractor.n_query + 1);
    (void)i;
    p->d_tokens = op_floats(&p->r, rows * w->m->llm.width);
    if (p->r.st == TY_OK) llm_back_tokens(w->m, &p->llm, p->d_tokens);
}

/* From the gradients of the last layer's output, which llm_loss left. */
static void llm_down(way *w, bool below) {
    const owl *m = w->m;
    int lowest = llm_lowest_layer(m, below);
    each(w, llm_begin, 0);
    for (int i = m->llm.n_layer - 1; i >= lowest; i--) {
        each(w, llm_layer, i);
        add_weight_grads(w, m->llm_layer[i].before_attention[0].w);
    }
    if (below) each(w, llm_tokens, 0);
    for (int i = 0; i < w->n && lowest == 0 && w->r->st == TY_OK; i++)
        llm_add_embedding_grads(m, &w->part[i].llm);
}

/* ---- lessons ---- */

/* v2's reference runs a picture of zeros where a batch has none, and multiplies nothing by it: the vision
 * tower is reached with a gradient of zero, so its moments fade and its weights decay. */
static void reach_vision(const owl *m) {
    for (int i = 0; i < m->params.n && m->params.item[i] != m->embed; i++)
        m->params.item[i]->touched = true;
}

/* The ViT alone. */
static void see_cells(pass_part *p, const way *w, int i) {
    (void)i;
    vit_forward(&p->r, w->m, p->b.pixels, p->b.n_picture, &p->vit);
    p->d = w->backward ? op_floats(&p->r, p->vit.rows * w->m->vit.width) : NULL;
    if (p->r.st == TY_OK) p->loss = vit_cells_loss(&p->r, w->m, &p->b, &p->vit, w->weight, p->d);
}

static void run_cells(way *w) {
    each(w, see_cells, 0);
    if (!w->backward) return;
    add_weight_grads(w, NULL);
    vit_down(w);
}

/* Pictures to visual rows, and no further. */
static void see_rows(pass_part *p, const way *w, int i) {
    (void)i;
    see(p, w->m);
    p->d_tokens =
        w->backward ? op_floats(&p->r, (int64_t)p->b.n_row * w->m->abstractor.n_out) : NULL;
    if (p->r.st == TY_OK)
        p->loss = abstractor_rows_loss(&p->r, w->m, &p->b, &p->abstractor, w->weight, p->d_tokens);
}

static void run_rows(way *w) {
    each(w, see_rows, 0);
    if (w->backward) visual_down(w);
}

static void see_and_read(pass_part *p, const way *w, int i) {
    (void)i;
    if (w->visual) see(p, w->m);
    if (p->r.st == TY_OK) llm_forward(&p->r, w->m, &p->b, p->abstractor.tokens, &p->llm);
}

static void run_talk(way *w) {
    const owl *m = w->m;
    w->visual = m->version && w->b->n_picture > 0;
    each(w, see_and_read, 0);
    llm_pass **all = ty_arena_array(w->r->arena, (size_t)w->n, sizeof *all);
    if (!all) op_fail(w->r, ty_fail(&w->r->err, TY_ENOMEM, "no memory for %d parts", w->n));
    if (w->r->st != TY_OK || !all) return;
    for (int i = 0; i < w->n; i++) all[i] = &w->part[i].llm;
    if (w->backward && m->version == 2 && !w->visual) reach_vision(m);
    w->part[0].loss = llm_loss(w->r, m, all, w->n, w->weight, w->backward);
    if (!w->backward || w->r->st != TY_OK) return;
    bool below = w->visual && visual_trains(m);
    llm_down(w, below);
    if (below) visual_down(w);
}

ty_status pass_run(train_run *r, const owl *m, const owl_batch *b, float weight, bool backward,
                   double *loss, ty_err *err) {
    static void (*const RUN[])(way *) = {
        [LESSON_TALK] = run_talk, [LESSON_CELLS] = run_cells, [LESSON_ROWS] = run_rows};
    way w = {.r = r, .m = m, .b = b, .weight = weight, .backward = backward};
    r->st = TY_OK;
    r->later.n = 0;
    r->n_text = -1;
    *loss = 0;
    ty_arena_reset(r->arena);
    op_fail(r, cut(r, m, b, &w, &r->err));
    if (r->st == TY_OK) RUN[m->lesson](&w);
    for (int i = 0; i < w.n && r->st == TY_OK; i++) {
        *loss += w.part[i].loss;
        r->flops += w.part[i].r.flops;
    }
    if (r->st != TY_OK && err) *err = r->err;
    return r->st;
}
