/*
 * train.c - see train.h.  The loop is step(): gather micro-batches, forward and backward of each, one
 * update.  What a step reads and draws depends on its number and the seed alone.
 */
#include "training/train.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "orchestration/import.h"
#include "training/export.h"
#include "training/loader.h"
#include "training/lora.h"
#include "training/pass.h"
#include "training/ranks.h"
#include "training/state.h"
#include "training/train_log.h"

#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <math.h>
#include <regex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    const train_config *c;
    owl *m;
    lora_spec lora;
    ty_tokenizer *tokenizer;
    dataset data;
    pictures pictures;
    loader *loader;
    train_run run;
    run_position at;
    int64_t steps;
    int accumulate; /* micro-batches of a step on this rank */
    char settings[2048];
    int64_t *piece; /* [n_piece + 1] falling bounds of the pieces in which gradients are added up */
    int n_piece, sent;
    int64_t adapters; /* where their elements begin, behind all others */
    train_log log;
} trainer;

static volatile sig_atomic_t stop_asked;
static void on_signal(int sig) {
    (void)sig;
    stop_asked = 1;
}

/* ---- opening ---- */

static bool trains(void *ctx, const char *name) {
    return regexec(ctx, name, 0, NULL, 0) == 0;
}

static ty_status open_model(trainer *t, ty_err *err) {
    const recipe *r = &t->c->recipe;
    regex_t e;
    if (regcomp(&e, r->trains[0] ? r->trains : "^$", REG_EXTENDED | REG_NOSUB) != 0)
        return ty_fail(err, TY_EINVAL, "\"%.200s\" is no regular expression", r->trains);
    ty_status st = t->c->is_new
                       ? owl_new(&t->m, t->c->model, trains, &e, t->c->frozen_type, t->c->seed, err)
                       : owl_open(&t->m, t->c->model, trains, &e, t->c->frozen_type,
                                  t->c->new_layers, t->c->seed, err);
    regfree(&e);
    if (st == TY_OK && r->version >= 0 && t->m->version != r->version)
        st = ty_fail(err, TY_EINVAL, "recipe %s is for %s, %s is not one", r->name,
                     r->version == 2 ? "mPLUG-Owl2" : "mPLUG-Owl v1", t->c->model);
    if (st == TY_OK && r->lora_rank > 0) {
        t->lora =
            (lora_spec){.rank = r->lora_rank, .alpha = r->lora_alpha, .dropout = r->lora_dropout};
        snprintf(t->lora.target, sizeof t->lora.target, "%s", r->lora_target);
        if (t->c->resume_from) st = lora_read_spec(&t->lora, t->c->resume_from, err);
        if (st == TY_OK) st = lora_add(t->m, &t->lora, t->c->seed, err);
        if (st == TY_OK && t->c->resume_from) st = lora_load(t->m, t->c->resume_from, err);
    }
    if (st == TY_OK && r->lesson != LESSON_TALK && !t->m->version)
        st = ty_fail(err, TY_EINVAL, "recipe %s is for a ViT, %s has none", r->name, t->c->model);
    if (st == TY_OK) t->m->lesson = r->lesson;
    return st;
}

/* Once it is known what trains. */
static ty_status settle(trainer *t, ty_err *err) {
    const recipe *r = &t->c->recipe;
    ty_status st = TY_OK;
    if (r->lesson == LESSON_CELLS)
        st = owl_add_cells(t->m, t->data.item[0].n / owl_patches(t->m), err);
    if (st == TY_OK) st = param_settle(&t->m->params, ranks_rank(), ranks_size(), err);
    if (st == TY_OK && t->m->params.n_value == 0)
        st = ty_fail(err, TY_EINVAL, "nothing trains: \"%.200s\" matches no parameter", r->trains);
    t->adapters = t->m ? t->m->params.n_value : 0;
    for (int i = 0; st == TY_OK && i < t->m->params.n; i++) {
        const param *p = t->m->params.item[i];
        if (!strstr(p->name, ".lora_")) continue;
        t->adapters = p->grad - t->m->params.grads;
        break;
    }
    return st;
}

/* Places of a picture that its labels speak of (loader.h). */
static int labels(const trainer *t) {
    switch (t->c->recipe.lesson) {
    case LESSON_CELLS: return owl_patches(t->m);
    case LESSON_ROWS: return t->m->abstractor.n_query + 1;
    default: return 0;
    }
}

static ty_status open_data(trainer *t, ty_err *err) {
    char path[4200];
    int longest = t->m->llm.n_ctx;
    if (t->c->max_length > 0 && t->c->max_length < longest) longest = t->c->max_length;
    snprintf(path, sizeof path, "%s/tokenizer.model", t->c->model);
    ty_status st = ty_tokenizer_from_spm(&t->tokenizer, path, err);
    sample_rules rules = {.tokenizer = t->tokenizer,
                          .version = t->m->version,
                          .visual_rows = t->m->abstractor.n_query + 1,
                          .max_length = longest,
                          .lesson = t->c->recipe.lesson,
                          .cells = owl_patches(t->m)};
    if (st == TY_OK) st = dataset_open(&t->data, t->c->data, t->c->images, &rules, err);
    if (st == TY_OK && t->m->version)
        st = pictures_open(&t->pictures, t->c->model, t->m->vit.image_size, t->m->version,
                           t->c->recipe.augment, err);
    if (st != TY_OK) return st;
    if (t->data.n_bad && ranks_rank() == 0)
        ty_warn("records left out=%lld first: %s", (long long)t->data.n_bad, t->data.first_bad);
    if (t->data.n_empty && ranks_rank() == 0)
        ty_warn("records with nothing to learn, left out=%lld", (long long)t->data.n_empty);
    return TY_OK;
}

/* What must be the same in both halves of an interrupted run. */
static void describe(trainer *t) {
    const recipe *r = &t->c->recipe;
    snprintf(
        t->settings, sizeof t->settings,
        "recipe %s trains %s lora %d %g %g %s optimizer %d %.9g %.9g %.9g %.9g lr %.9g clip %.9g "
        "schedule %d "
        "new %d layers %d %swarmup %d %.9g batch %d micro %d ranks %d length %d augment %d seed "
        "%llu "
        "steps %lld "
        "samples %lld "
        "targets of the first %d",
        r->name, r->trains, r->lora_rank, r->lora_alpha, r->lora_dropout,
        r->lora_rank ? t->lora.target : "-", (int)r->optimizer.kind, r->optimizer.beta1,
        r->optimizer.beta2, r->optimizer.eps, r->optimizer.weight_decay, r->lr, r->clip,
        (int)r->schedule, t->c->is_new, t->c->new_layers,
        t->c->products == TY_PRODUCTS_BF16 ? "products bf16 " : "", r->warmup_steps,
        r->warmup_ratio, r->batch, t->c->micro_batch, ranks_size(), t->c->max_length, r->augment,
        (unsigned long long)t->c->seed, (long long)t->steps, (long long)t->data.n,
        t->data.item[0].n_target);
}

static ty_status plan(trainer *t, ty_err *err) {
    const recipe *r = &t->c->recipe;
    int pass = t->c->micro_batch * ranks_size();
    if (r->batch % pass)
        return ty_fail(err, TY_EINVAL,
                       "a batch of %d samples is not a multiple of %d (%d a pass on %d ranks): "
                       "change --batch or "
                       "--micro-batch",
                       r->batch, pass, t->c->micro_batch, ranks_size());
    t->accumulate = r->batch / pass;
    double steps = ceil(t->c->epochs * (double)t->data.n / r->batch);
    t->steps = t->c->steps > 0 ? t->c->steps : (int64_t)steps;
    describe(t);
    return TY_OK;
}

/* ---- going on ---- */

static void state_path(const trainer *t, int64_t step, char *path, size_t size) {
    snprintf(path, size, "%s/state-%lld-%d", t->c->out, (long long)step, ranks_rank());
}

/* Step that OUT/latest names; -1: none. */
static ty_status latest(const trainer *t, long long *step, ty_err *err) {
    char path[4200], *text = NULL;
    size_t n;
    *step = -1;
    snprintf(path, sizeof path, "%s/latest", t->c->out);
    ty_status st = ty_file_read(path, 64, &text, &n, err);
    if (st == TY_ENOTFOUND) return TY_OK;
    if (st == TY_OK && (sscanf(text, "%lld", step) != 1 || *step < 0))
        st = ty_fail(err, TY_EFORMAT, "%s does not name a step", path);
    free(text);
    return st;
}

/* What a killed run left half done: states that OUT/latest does not name. */
static void sweep(const trainer *t, long long step) {
    char named[64], path[4400];
    DIR *d = opendir(t->c->out);
    int len = snprintf(named, sizeof named, "state-%lld-", step);
    if (!d || ranks_rank() != 0) goto done;
    for (const struct dirent *e; (e = readdir(d));) {
        if (strncmp(e->d_name, "state-", 6) != 0) continue;
        if (strncmp(e->d_name, named, (size_t)len) == 0 && !strstr(e->d_name, ".tmp.")) continue;
        snprintf(path, sizeof path, "%s/%s", t->c->out, e->d_name);
        (void)unlink(path);
    }
done:
    if (d) closedir(d);
    ranks_barrier();
}

static ty_status go_on(trainer *t, ty_err *err) {
    long long step;
    char path[4200];
    ty_status st = latest(t, &step, err);
    if (st != TY_OK) return st;
    sweep(t, step);
    if (step < 0) return TY_OK;
    state_path(t, step, path, sizeof path);
    st = state_load(path, &t->m->params, &t->at, t->settings, err);
    if (st == TY_OK) ranks_share_values(&t->m->params);
    if (st == TY_OK && ranks_rank() == 0) ty_info("resumed step=%lld", (long long)t->at.step);
    return st;
}

/* Every rank's file, then the name that makes them valid, then the older ones go. */
static ty_status save(trainer *t, ty_err *err) {
    long long before;
    char path[4200], text[32];
    ty_status st = latest(t, &before, err);
    if (st != TY_OK || before == t->at.step) return st;
    state_path(t, t->at.step, path, sizeof path);
    st = state_save(path, &t->m->params, &t->at, t->settings, err);
    double failed = st != TY_OK;
    ranks_max(&failed, 1);
    if (failed > 0) return st == TY_OK ? ty_fail(err, TY_EIO, "another rank could not save") : st;
    if (ranks_rank() == 0) {
        snprintf(path, sizeof path, "%s/latest", t->c->out);
        snprintf(text, sizeof text, "%lld\n", (long long)t->at.step);
        st = ty_file_write_atomic(path, text, strlen(text), err);
    }
    ranks_barrier();
    if (st == TY_OK && before >= 0) {
        state_path(t, before, path, sizeof path);
        (void)unlink(path);
    }
    return st;
}

/* ---- one step ---- */

/* First element of the gradients of `first`, or of the next parameter behind it that trains. */
static int64_t element_of(const trainer *t, const param *first) {
    const param_set *s = &t->m->params;
    int i = 0;
    while (i < s->n && s->item[i] != first) i++;
    while (i < s->n && !s->item[i]->grad) i++;
    return i < s->n ? s->item[i]->grad - s->grads : t->adapters;
}

static void add_bound(trainer *t, const param *first) {
    int64_t at = element_of(t, first);
    if (at < t->piece[t->n_piece]) t->piece[++t->n_piece] = at;
}

/* A piece for each layer, from the last to the first, and what is left.  All ranks must add up the same
 * pieces in the same order, whatever their own batch reached. */
static ty_status cut_into_pieces(trainer *t, ty_err *err) {
    const owl *m = t->m;
    int layers = m->llm.n_layer + m->vit.n_layer + m->abstractor.n_layer;
    t->piece = malloc(((size_t)layers + 2) * sizeof *t->piece);
    if (!t->piece) return ty_fail(err, TY_ENOMEM, "no memory for %d layers", layers);
    t->piece[0] = t->adapters;
    for (int i = m->llm.n_layer - 1; i >= 0; i--)
        add_bound(t, m->llm_layer[i].before_attention[0].w);
    for (int i = m->abstractor.n_layer - 1; i >= 0 && m->version; i--)
        add_bound(t, m->abstractor_layer[i].norm1.w);
    for (int i = m->vit.n_layer - 1; i >= 0 && m->version; i--)
        add_bound(t, m->vit_layer[i].before_attention.w);
    if (t->piece[t->n_piece] > 0) t->piece[++t->n_piece] = 0;
    return TY_OK;
}

static void send_down_to(trainer *t, int64_t at) {
    for (; t->sent < t->n_piece && t->piece[t->sent + 1] >= at; t->sent++)
        ranks_reduce(&t->m->params, t->piece[t->sent + 1], t->piece[t->sent]);
}

/* The gradients from `first` on are complete: off they go, while the backward goes on below. */
static void complete(void *ctx, const param *first) {
    trainer *t = ctx;
    send_down_to(t, element_of(t, first));
}

static void share_touched(param_set *s) {
    double *flag = malloc((size_t)s->n * sizeof *flag);
    if (!flag) return;
    for (int i = 0; i < s->n; i++) flag[i] = s->item[i]->touched;
    ranks_max(flag, s->n);
    for (int i = 0; i < s->n; i++) s->item[i]->touched = flag[i] > 0;
    free(flag);
}

typedef struct {
    loaded **micro; /* [accumulate] */
    double sum[4];  /* loss, tokens, targets, samples left out; over all ranks */
} gathered;

/* All micro-batches of the step first: the weight of a target is one over all targets of all ranks. */
static ty_status gather(trainer *t, gathered *g, ty_err *err) {
    ty_status st = TY_OK;
    for (int i = 0; i < t->accumulate && st == TY_OK; i++) {
        st = loader_next(t->loader, &g->micro[i], err);
        if (st != TY_OK) break;
        g->sum[1] += g->micro[i]->batch.n_row;
        g->sum[2] += g->micro[i]->batch.n_target;
        g->sum[3] += g->micro[i]->n_skipped;
        if (g->micro[i]->n_skipped)
            ty_warn("step=%lld samples left out=%d first: %s", (long long)t->at.step + 1,
                    g->micro[i]->n_skipped, g->micro[i]->skipped);
    }
    ranks_sum(g->sum, 4);
    return st;
}

static ty_status gradients(trainer *t, gathered *g, ty_err *err) {
    param_set *s = &t->m->params;
    ty_status st = TY_OK;
    float weight = (float)(1 / g->sum[2]);
    double total = 0;
    t->sent = 0;
    param_zero_grads(s);
    for (int i = 0; i < t->accumulate && st == TY_OK; i++) {
        double loss = 0;
        bool last = i + 1 == t->accumulate && ranks_size() > 1;
        t->run.complete = last ? complete : NULL;
        t->run.ctx = t;
        t->run.draw = (uint64_t)((t->at.step * t->accumulate + i) * ranks_size() + ranks_rank());
        if (g->micro[i]->batch.n_target > 0)
            st = pass_run(&t->run, t->m, &g->micro[i]->batch, weight, true, &loss, err);
        total += loss;
    }
    send_down_to(t, 0);
    ranks_reduce(s, t->adapters, s->n_value);
    ranks_reduced();
    if (ranks_size() > 1) share_touched(s);
    ranks_sum(&total, 1);
    g->sum[0] = total / g->sum[2];
    return st;
}

static ty_status update(trainer *t, const gathered *g, double *norm, double *lr, ty_err *err) {
    const recipe *r = &t->c->recipe;
    int64_t warmup =
        r->warmup_steps > 0 ? r->warmup_steps : (int64_t)ceil(r->warmup_ratio * (double)t->steps);
    double squares = adamw_grad_squares(&t->m->params, t->run.pool);
    ranks_sum(&squares, 1);
    *norm = sqrt(squares);
    *lr = r->lr * schedule_factor(r->schedule, t->at.step, warmup, t->steps);
    if (!isfinite(*norm) || !isfinite(g->sum[0]))
        return ty_fail(err, TY_EINVAL,
                       "step %lld: the loss is %g, the gradient's norm %g: lower --lr, or go on "
                       "from an earlier "
                       "state",
                       (long long)t->at.step + 1, g->sum[0], *norm);
    t->at.updates++;
    adamw_step(&r->optimizer, &t->m->params, t->run.pool, t->at.updates, *lr,
               adamw_clip(*norm, r->clip));
    ranks_share_values(&t->m->params);
    return TY_OK;
}

static ty_status step(trainer *t, gathered *g, ty_err *err) {
    double norm = 0, lr = 0;
    memset(g->sum, 0, sizeof g->sum);
    memset(g->micro, 0, (size_t)t->accumulate * sizeof *g->micro);
    t->run.flops = 0;
    ty_status st = gather(t, g, err);
    /* The reference's mean over no target is NaN, which ends its run; here the step is passed over. */
    bool nothing = st == TY_OK && g->sum[2] == 0;
    if (st == TY_OK && !nothing) st = gradients(t, g, err);
    if (st == TY_OK && !nothing) st = update(t, g, &norm, &lr, err);
    for (int i = 0; i < t->accumulate; i++)
        if (g->micro[i]) loader_done(t->loader, g->micro[i]);
    if (st != TY_OK) return st;
    t->at.step++;
    t->at.n_token += (int64_t)g->sum[1];
    t->at.n_target += (int64_t)g->sum[2];
    t->at.n_skipped += (int64_t)g->sum[3];
    train_line line = {.step = t->at.step,
                       .epoch = (double)t->at.step * t->c->recipe.batch / (double)t->data.n,
                       .loss = g->sum[0],
                       .lr = lr,
                       .grad_norm = norm,
                       .tokens = (int64_t)g->sum[1],
                       .targets = (int64_t)g->sum[2],
                       .skipped = (int64_t)g->sum[3],
                       .flops = t->run.flops * ranks_size()};
    return ranks_rank() == 0 ? train_log_step(&t->log, &line, err) : TY_OK;
}

/* ---- the run ---- */

static ty_status results(trainer *t, ty_err *err) {
    char path[4200];
    ty_status st = TY_OK;
    if (ranks_rank() != 0) return TY_OK;
    if (t->c->recipe.lora_rank > 0) {
        snprintf(path, sizeof path, "%s/adapter", t->c->out);
        st = lora_save(t->m, &t->lora, t->c->model, path, err);
        snprintf(path, sizeof path, "%s/trained.safetensors", t->c->out);
        if (st == TY_OK) st = export_trained(t->m, path, err);
        if (!t->c->merge && !t->c->pipeline) return st;
    }
    snprintf(path, sizeof path, "%s/model", t->c->out);
    if (st == TY_OK)
        st = export_model(t->m, t->c->model, t->c->is_new, t->c->new_layers, path, err);
    if (st != TY_OK || !t->c->pipeline) return st;
    char name[4096];
    snprintf(name, sizeof name, "%s", t->c->pipeline);
    import_options o = {
        .src = path, .out = t->c->pipeline, .name = basename(name), .types = t->c->pipeline_types};
    return import_pipeline(&o, err);
}

static ty_status loop(trainer *t, ty_err *err) {
    gathered g = {.micro = calloc((size_t)t->accumulate, sizeof(loaded *))};
    if (!g.micro) return ty_fail(err, TY_ENOMEM, "no memory for a step");
    ty_status st = TY_OK;
    while (t->at.step < t->steps && st == TY_OK) {
        double stop = stop_asked;
        ranks_max(&stop, 1);
        if (stop > 0) break;
        st = step(t, &g, err);
        if (st == TY_OK && t->at.step % t->c->save_every == 0) st = save(t, err);
    }
    if (st == TY_OK) st = save(t, err);
    free(g.micro);
    return st;
}

static ty_status open_loader(trainer *t, ty_err *err) {
    loader_config c = {.data = &t->data,
                       .pictures = t->m->version ? &t->pictures : NULL,
                       .model = t->m,
                       .seed = t->c->seed,
                       .samples = t->c->micro_batch,
                       .labels = labels(t),
                       .stride = ranks_size(),
                       .threads = t->c->readers,
                       .ahead = t->accumulate + 4};
    int64_t first = t->at.step * t->accumulate * ranks_size() + ranks_rank();
    return loader_open(&t->loader, &c, first, err);
}

/* The folder and those above it. */
static ty_status make_folder(const char *path, ty_err *err) {
    char part[4096];
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof part)
        return ty_fail(err, TY_EINVAL, "--out: the path is empty or too long");
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i] != 0) continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return ty_fail(err, TY_EIO, "%s: %s", part, strerror(errno));
    }
    return TY_OK;
}

static ty_status open_all(trainer *t, ty_err *err) {
    ty_status st = make_folder(t->c->out, err);
    if (st == TY_OK) st = open_model(t, err);
    if (st == TY_OK) st = open_data(t, err);
    if (st == TY_OK) st = settle(t, err);
    if (st == TY_OK) st = plan(t, err);
    if (st == TY_OK) st = cut_into_pieces(t, err);
    if (st == TY_OK) st = go_on(t, err);
    if (st == TY_OK) st = open_loader(t, err);
    if (st == TY_OK && ranks_rank() == 0)
        st = train_log_open(&t->log, t->c->out, t->at.step, t->steps, err);
    if (st == TY_OK && ranks_rank() == 0)
        ty_info("recipe=%s samples=%lld steps=%lld batch=%d ranks=%d products=%s trains=%lld "
                "state_mb=%zu",
                t->c->recipe.name, (long long)t->data.n, (long long)t->steps, t->c->recipe.batch,
                ranks_size(), ty_products_name(t->c->products), (long long)t->m->params.n_value,
                param_bytes(&t->m->params) >> 20);
    return st;
}

ty_status train(const train_config *c, ty_pool *pool, bool *finished, ty_err *err) {
    trainer t = {.c = c,
                 .run = {.pool = pool,
                         .recompute = c->recompute,
                         .products = c->products,
                         .lora_dropout = c->recipe.lora_dropout,
                         .seed = c->seed}};
    struct sigaction on = {.sa_handler = on_signal}, old_int, old_term;
    sigaction(SIGINT, &on, &old_int);
    sigaction(SIGTERM, &on, &old_term);
    stop_asked = 0;
    t.run.arena = ty_arena_create(PASS_ARENA_BLOCK);
    ty_status st = t.run.arena ? open_all(&t, err) : ty_fail(err, TY_ENOMEM, "no memory");
    if (st == TY_OK) st = loop(&t, err);
    *finished = st == TY_OK && t.at.step >= t.steps;
    if (*finished) st = results(&t, err);
    train_log_close(&t.log);
    free(t.piece);
    loader_close(&t.loader);
    pictures_close(&t.pictures);
    dataset_close(&t.data);
    ty_tokenizer_destroy(&t.tokenizer);
    owl_close(&t.m);
    train_run_clear(&t.run);
    ty_arena_destroy(&t.run.arena);
    sigaction(SIGINT, &old_int, NULL);
    sigaction(SIGTERM, &old_term, NULL);
    return st;
}
