/*
 * pass.c - a whole batch: pictures through ViT and abstractor, rows through the language model, and
 * back as far down as something trains.
 */
#include "training/pass.h"

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

/* From the gradient of the visual tokens down to the pixels. */
static void visual_backward(train_run *r, const owl *m, vit_pass *vit, abstractor_pass *abstractor,
                            const float *d_tokens) {
    float *d = vit_trains(m) ? op_floats(r, vit->rows * m->vit.width) : NULL;
    if (r->st != TY_OK) return;
    abstractor_backward(r, m, abstractor, d_tokens, d);
    if (d) vit_backward(r, m, vit, d);
}

/* From the pixels of a batch up to its visual tokens. */
static void visual_forward(train_run *r, const owl *m, const owl_batch *b, vit_pass *vit,
                           abstractor_pass *abstractor) {
    vit_forward(r, m, b->pixels, b->n_picture, vit);
    if (r->st == TY_OK)
        abstractor_forward(r, m, vit->features, b->n_picture, (int)(vit->rows / vit->n),
                           abstractor);
}

/* v2's reference runs a picture of zeros where a batch has none, and multiplies nothing by it: the vision
 * tower is reached with a gradient of zero, so its moments fade and its weights decay. */
static void reach_vision(const owl *m) {
    for (int i = 0; i < m->params.n && m->params.item[i] != m->embed; i++)
        m->params.item[i]->touched = true;
}

/* The ViT alone. */
static double run_cells(train_run *r, const owl *m, const owl_batch *b, float weight,
                        bool backward) {
    vit_pass vit = {0};
    vit_forward(r, m, b->pixels, b->n_picture, &vit);
    float *d = backward ? op_floats(r, vit.rows * m->vit.width) : NULL;
    double loss = r->st == TY_OK ? vit_cells_loss(r, m, b, &vit, weight, d) : 0;
    if (backward && r->st == TY_OK) vit_backward(r, m, &vit, d);
    return loss;
}

/* Pictures to visual rows, and no further. */
static double run_rows(train_run *r, const owl *m, const owl_batch *b, float weight,
                       bool backward) {
    vit_pass vit = {0};
    abstractor_pass abstractor = {0};
    visual_forward(r, m, b, &vit, &abstractor);
    float *d = backward ? op_floats(r, (int64_t)b->n_row * m->abstractor.n_out) : NULL;
    if (r->st != TY_OK) return 0;
    double loss = abstractor_rows_loss(r, m, b, &abstractor, weight, d);
    if (backward && r->st == TY_OK) visual_backward(r, m, &vit, &abstractor, d);
    return loss;
}

static double run(train_run *r, const owl *m, const owl_batch *b, float weight, bool backward) {
    vit_pass vit = {0};
    abstractor_pass abstractor = {0};
    llm_pass llm = {0};
    float *d = NULL, *d_tokens = NULL;
    bool visual = m->version && b->n_picture > 0;
    if (visual) visual_forward(r, m, b, &vit, &abstractor);
    if (r->st == TY_OK) llm_forward(r, m, b, abstractor.tokens, &llm);
    if (backward) {
        d = op_floats(r, (int64_t)b->n_row * m->llm.width);
        if (visual && visual_trains(m))
            d_tokens =
                op_floats(r, (int64_t)b->n_picture * (m->abstractor.n_query + 1) * m->llm.width);
    }
    if (r->st != TY_OK) return 0;
    if (backward && m->version == 2 && !visual) reach_vision(m);
    llm_loss(r, m, &llm, weight, d);
    if (backward && r->st == TY_OK) llm_backward(r, m, &llm, d, d_tokens);
    if (d_tokens && r->st == TY_OK) visual_backward(r, m, &vit, &abstractor, d_tokens);
    return llm.loss;
}

ty_status pass_run(train_run *r, const owl *m, const owl_batch *b, float weight, bool backward,
                   double *loss, ty_err *err) {
    r->st = TY_OK;
    ty_arena_reset(r->arena);
    static double (*const RUN[])(train_run *, const owl *, const owl_batch *, float, bool) = {
        [LESSON_TALK] = run, [LESSON_CELLS] = run_cells, [LESSON_ROWS] = run_rows};
    *loss = RUN[m->lesson](r, m, b, weight, backward);
    if (r->st != TY_OK && err) *err = r->err;
    return r->st;
}
