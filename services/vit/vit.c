/*
 * vit.c - see vit.h.  The vision transformer of mPLUG-Owl (a CLIP ViT):
 *
 *     pixels -> patches x patch_embed --+
 *     cls_token ------------------------+--> + positions -> pre_layernorm -> x
 *     each layer:   x += dense(attention(input_layernorm(x)))
 *                   x += fc2(quick_gelu(fc1(post_attention_layernorm(x))))
 *                   (in a video first what temporal.h adds)
 *     post_layernorm(x) -> features, the cls token first
 *
 * The rows of query_key_value lie per head: head h owns 3 x d rows in the order q, k, v.  They are
 * read in place by strides.  All pictures of a call are rows of one matrix.
 *
 * Source: the reference notes, section 2.  Golden: vit_embed, vit_layerK, vit_out.
 */
#include "services/vit/vit.h"

#include "common/math/nn.h"
#include "common/model/meta.h"
#include "common/model/weights.h"
#include "services/vit/temporal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    float *weight, *bias;
} norm;

typedef struct {
    norm before_attention, before_mlp;
    ty_linear *qkv, *dense, *fc1, *fc2;
    vit_temporal temporal; /* when the model sees videos */
} layer;

struct vit {
    int image, patch, grid; /* pixels of an edge; of a patch's edge; patches of an edge */
    int n_token, width, n_layer, n_head, d_head, d_ff;
    int temporal; /* width of the temporal modules; 0 = the model sees pictures alone */
    float eps;
    ty_pool *pool;
    float *cls, *position; /* [C], [n_token, C] */
    ty_linear *patch_embed;
    norm pre, post;
    layer *layers;
    float *scratch; /* for `room` pictures (or frames) */
    int room;
    char id[TY_MODEL_ID_SIZE];
};

int vit_image_size(const vit *v) {
    return v->image;
}
int vit_n_token(const vit *v) {
    return v->n_token;
}
int vit_width(const vit *v) {
    return v->width;
}
const char *vit_model_id(const vit *v) {
    return v->id;
}

double vit_flops(const vit *v) {
    double t = v->n_token, c = v->width, f = v->d_ff, k = 3.0 * v->patch * v->patch;
    double linear = 2 * t * c * (3 * c + c + f + f), attention = 4 * t * t * c;
    return 2 * (t - 1) * c * k + v->n_layer * (linear + attention);
}

bool vit_sees_videos(const vit *v) {
    return v->temporal > 0;
}

double vit_video_flops(const vit *v, int n_frame) {
    double modules = n_frame > 1 ? v->n_layer * vit_temporal_flops(&v->layers[0].temporal) : 0;
    return n_frame * (vit_flops(v) + v->n_token * modules);
}

/* ---- the model file ---- */

static ty_status check_sizes(const vit *v, const ty_gguf *g, ty_err *err) {
    if (v->image % v->patch)
        return ty_fail(err, TY_EFORMAT,
                       "%s: vit.image_size %d is not a multiple of vit.patch_size %d",
                       ty_gguf_path(g), v->image, v->patch);
    if (v->width % v->n_head)
        return ty_fail(err, TY_EFORMAT,
                       "%s: vit.embedding_length %d is not a multiple of "
                       "vit.attention.head_count %d",
                       ty_gguf_path(g), v->width, v->n_head);
    const char *act;
    size_t len;
    ty_status st = ty_gguf_get_str(g, "vit.hidden_act", &act, &len, err);
    if (st != TY_OK) return st;
    if (len == 10 && memcmp(act, "quick_gelu", 10) == 0) return TY_OK;
    return ty_fail(err, TY_EUNSUPPORTED, "%s: vit.hidden_act is \"%.*s\", want \"quick_gelu\"",
                   ty_gguf_path(g), (int)(len < 64 ? len : 64), act);
}

static ty_status read_sizes(vit *v, const ty_gguf *g, ty_err *err) {
    ty_status st = ty_meta_architecture(g, "mplug_owl_vit", "vit", err);
    if (st == TY_OK) st = ty_meta_size(g, "vit.image_size", 4096, &v->image, err);
    if (st == TY_OK) st = ty_meta_size(g, "vit.patch_size", 4096, &v->patch, err);
    if (st == TY_OK) st = ty_meta_size(g, "vit.embedding_length", 1 << 16, &v->width, err);
    if (st == TY_OK) st = ty_meta_size(g, "vit.block_count", 1024, &v->n_layer, err);
    if (st == TY_OK) st = ty_meta_size(g, "vit.attention.head_count", 1 << 16, &v->n_head, err);
    if (st == TY_OK) st = ty_meta_size(g, "vit.feed_forward_length", 1 << 20, &v->d_ff, err);
    if (st == TY_OK) st = ty_meta_positive(g, "vit.attention.layer_norm_epsilon", &v->eps, err);
    if (st == TY_OK && ty_gguf_has(g, "vit.temporal_length"))
        st = ty_meta_size(g, "vit.temporal_length", 1 << 16, &v->temporal, err);
    if (st == TY_OK) st = check_sizes(v, g, err);
    if (st != TY_OK) return st;
    v->grid = v->image / v->patch;
    v->n_token = v->grid * v->grid + 1;
    v->d_head = v->width / v->n_head;
    return TY_OK;
}

static ty_status load_norm(const vit *v, const ty_weights *w, const char *name, norm *n,
                           ty_err *err) {
    return ty_weights_norm(w, name, v->width, &n->weight, &n->bias, err);
}

/* The convolution with stride = kernel is a linear layer over unfolded patches; its weight
 * [C, 3, p, p] is [C, 3 p p] in the same bytes.  It has no bias. */
static ty_status load_patch_embed(vit *v, const ty_weights *w, ty_err *err) {
    ty_tensor t;
    const int64_t shape[] = {v->width, 3, v->patch, v->patch};
    ty_status st = ty_gguf_find_shape(w->file, "embeddings.patch_embed.weight", 4, shape, &t, err);
    if (st != TY_OK) return st;
    t.n_dim = 2;
    t.shape[1] = 3 * (int64_t)v->patch * v->patch;
    return ty_linear_create(&v->patch_embed, &t, NULL, 1, w->compute, w->pool, err);
}

static ty_status load_embeddings(vit *v, const ty_weights *w, ty_err *err) {
    const int64_t cls[] = {1, 1, v->width}, position[] = {1, v->n_token, v->width};
    ty_status st = ty_weights_floats(w, "embeddings.cls_token", 3, cls, &v->cls, err);
    if (st == TY_OK)
        st = ty_weights_floats(w, "embeddings.position_embedding", 3, position, &v->position, err);
    if (st == TY_OK) st = load_patch_embed(v, w, err);
    if (st == TY_OK) st = load_norm(v, w, "embeddings.pre_layernorm", &v->pre, err);
    if (st == TY_OK) st = load_norm(v, w, "post_layernorm", &v->post, err);
    return st;
}

static const char *in_layer(char *buf, size_t size, int i, const char *name) {
    snprintf(buf, size, "encoder.layers.%d.%s", i, name);
    return buf;
}

static ty_status load_linear(const ty_weights *w, int i, const char *name, int64_t out, int64_t in,
                             ty_linear **l, ty_err *err) {
    char buf[128];
    const char *full = in_layer(buf, sizeof buf, i, name);
    return ty_weights_linear(w, 1, &full, &out, in, l, err);
}

static ty_status load_layer(vit *v, const ty_weights *w, int i, ty_err *err) {
    layer *l = &v->layers[i];
    int64_t c = v->width, f = v->d_ff;
    char buf[128];
    ty_status st =
        load_norm(v, w, in_layer(buf, sizeof buf, i, "input_layernorm"), &l->before_attention, err);
    if (st == TY_OK)
        st = load_norm(v, w, in_layer(buf, sizeof buf, i, "post_attention_layernorm"),
                       &l->before_mlp, err);
    if (st == TY_OK) st = load_linear(w, i, "self_attn.query_key_value", 3 * c, c, &l->qkv, err);
    if (st == TY_OK) st = load_linear(w, i, "self_attn.dense", c, c, &l->dense, err);
    if (st == TY_OK) st = load_linear(w, i, "mlp.fc1", f, c, &l->fc1, err);
    if (st == TY_OK) st = load_linear(w, i, "mlp.fc2", c, f, &l->fc2, err);
    if (st == TY_OK && v->temporal) st = vit_temporal_load(&l->temporal, w, i, c, v->temporal, err);
    return st;
}

static ty_status load(vit *v, const ty_gguf *g, const ty_run_options *opt, ty_err *err) {
    const ty_weights w = {g, opt->compute, opt->pool};
    ty_status st = read_sizes(v, g, err);
    if (st != TY_OK) return st;
    ty_gguf_identity(g, v->id);
    v->layers = calloc((size_t)v->n_layer, sizeof *v->layers);
    if (!v->layers) return ty_fail(err, TY_ENOMEM, "vit: no memory for %d layers", v->n_layer);
    st = load_embeddings(v, &w, err);
    for (int i = 0; i < v->n_layer && st == TY_OK; i++) st = load_layer(v, &w, i, err);
    return st;
}

ty_status vit_create(vit **out, const char *model_path, const ty_run_options *opt, ty_err *err) {
    *out = NULL;
    ty_gguf *g = NULL;
    vit *v = calloc(1, sizeof *v);
    if (!v) return ty_fail(err, TY_ENOMEM, "vit: no memory");
    v->pool = opt->pool;
    ty_status st = ty_gguf_open(&g, model_path, err);
    if (st == TY_OK) st = load(v, g, opt, err);
    ty_gguf_close(&g);
    if (st != TY_OK) {
        vit_destroy(&v);
        return st;
    }
    *out = v;
    return TY_OK;
}

static void norm_clear(norm *n) {
    free(n->weight);
    free(n->bias);
}

static void layer_clear(layer *l) {
    norm_clear(&l->before_attention);
    norm_clear(&l->before_mlp);
    ty_linear_destroy(&l->qkv);
    ty_linear_destroy(&l->dense);
    ty_linear_destroy(&l->fc1);
    ty_linear_destroy(&l->fc2);
    vit_temporal_clear(&l->temporal);
}

void vit_destroy(vit **out) {
    vit *v = *out;
    if (!v) return;
    for (int i = 0; v->layers && i < v->n_layer; i++) layer_clear(&v->layers[i]);
    free(v->layers);
    free(v->cls);
    free(v->position);
    norm_clear(&v->pre);
    norm_clear(&v->post);
    ty_linear_destroy(&v->patch_embed);
    free(v->scratch);
    free(v);
    *out = NULL;
}

/* ---- one call ---- */

/* What a call works in: `rows` = n x n_token.  The hidden state itself is the caller's output.  n counts
 * pictures, each frame of a video for itself. */
typedef struct {
    const vit *v;
    int n, rows, n_frame; /* n_frame: of each video, 1 for pictures */
    float *x;             /* [rows, C] hidden state */
    float *norm;          /* [rows, C] normed rows, then the attention's context */
    float *add;           /* [rows, C] what is added to x */
    float *wide;          /* [rows, max(3C, F)] qkv, then the MLP; at first the unfolded patches */
} frame;

static size_t wide_floats(const vit *v) {
    size_t c = 3 * (size_t)v->width, f = (size_t)v->d_ff, t = (size_t)v->n_token;
    if (2 * (size_t)v->temporal > f) f = 2 * (size_t)v->temporal;
    size_t patches = 3 * (size_t)v->image * (size_t)v->image, rows = t * (c > f ? c : f);
    return rows > patches ? rows : patches;
}

static ty_status frame_init(frame *fr, vit *v, int n, int n_frame, float *features, ty_err *err) {
    size_t rows = (size_t)n * (size_t)v->n_token, plane = rows * (size_t)v->width;
    if (n > v->room) {
        size_t floats = 2 * plane + (size_t)n * wide_floats(v);
        float *bigger = malloc(floats * sizeof *bigger);
        if (!bigger)
            return ty_fail(err, TY_ENOMEM, "vit: no memory for %d pictures (%zu bytes)", n,
                           floats * sizeof *bigger);
        free(v->scratch);
        v->scratch = bigger;
        v->room = n;
    }
    *fr = (frame){v,        n,          (int)rows,          n_frame,
                  features, v->scratch, v->scratch + plane, v->scratch + 2 * plane};
    return TY_OK;
}

/* y = l(x) for `rows` dense rows. */
static ty_status apply(const frame *fr, const ty_linear *l, const float *x, int rows, float *y,
                       ty_err *err) {
    ty_status st = ty_linear_apply(l, fr->v->pool, x, ty_linear_in(l), rows, y, ty_linear_out(l));
    if (st == TY_OK) return TY_OK;
    return ty_fail(err, st, "vit: no memory for %d pictures", fr->n);
}

typedef struct {
    const vit *v;
    const float *pixels;
    float *patches;
} unfolding;

/* Picture b's patches, row-major, each as [3, p, p]: the order of the convolution's weight. */
static void unfold(void *ctx, int b, int member) {
    (void)member;
    const unfolding *u = ctx;
    size_t s = (size_t)u->v->image, p = (size_t)u->v->patch, g = (size_t)u->v->grid;
    const float *in = u->pixels + (size_t)b * 3 * s * s;
    float *out = u->patches + (size_t)b * 3 * s * s;
    for (size_t cell = 0; cell < g * g; cell++) {
        const float *corner = in + cell / g * p * s + cell % g * p;
        for (size_t c = 0; c < 3; c++)
            for (size_t y = 0; y < p; y++, out += p)
                memcpy(out, corner + (c * s + y) * s, p * sizeof *out);
    }
}

static void add_rows(float *out, const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = a[i] + b[i];
}

static ty_status embed(const frame *fr, const float *pixels, ty_err *err) {
    const vit *v = fr->v;
    int n_patch = v->n_token - 1;
    size_t c = (size_t)v->width, patches = (size_t)n_patch * c;
    unfolding u = {v, pixels, fr->wide};
    ty_pool_run(v->pool, fr->n, unfold, &u);
    ty_status st = apply(fr, v->patch_embed, fr->wide, fr->n * n_patch, fr->add, err);
    if (st != TY_OK) return st;
    for (int b = 0; b < fr->n; b++) {
        float *x = fr->x + (size_t)b * (patches + c);
        add_rows(x, v->cls, v->position, c);
        add_rows(x + c, fr->add + (size_t)b * patches, v->position + c, patches);
    }
    ty_layernorm(v->pool, fr->x, fr->rows, v->width, v->pre.weight, v->pre.bias, v->eps, fr->x);
    return TY_OK;
}

static ty_status attention(const frame *fr, const layer *l, ty_err *err) {
    const vit *v = fr->v;
    ty_layernorm(v->pool, fr->x, fr->rows, v->width, l->before_attention.weight,
                 l->before_attention.bias, v->eps, fr->norm);
    ty_status st = apply(fr, l->qkv, fr->norm, fr->rows, fr->wide, err);
    if (st != TY_OK) return st;
    ty_attention a =
        ty_attention_of_qkv(fr->wide, fr->n, v->n_token, v->n_head, v->d_head, fr->norm);
    st = ty_attention_full(v->pool, &a, err);
    if (st == TY_OK) st = apply(fr, l->dense, fr->norm, fr->rows, fr->add, err);
    if (st == TY_OK) ty_add(v->pool, fr->x, fr->add, (int64_t)fr->rows * v->width);
    return st;
}

static ty_status mlp(const frame *fr, const layer *l, ty_err *err) {
    const vit *v = fr->v;
    ty_layernorm(v->pool, fr->x, fr->rows, v->width, l->before_mlp.weight, l->before_mlp.bias,
                 v->eps, fr->norm);
    ty_status st = apply(fr, l->fc1, fr->norm, fr->rows, fr->wide, err);
    if (st != TY_OK) return st;
    ty_quick_gelu(v->pool, fr->wide, fr->rows, v->d_ff, v->d_ff);
    st = apply(fr, l->fc2, fr->wide, fr->rows, fr->add, err);
    if (st == TY_OK) ty_add(v->pool, fr->x, fr->add, (int64_t)fr->rows * v->width);
    return st;
}

static ty_status look_around(const frame *fr, const layer *l, ty_err *err) {
    const vit *v = fr->v;
    if (fr->n_frame == 1) return TY_OK;
    if (vit_temporal_apply(&l->temporal, v->pool, fr->x, fr->n / fr->n_frame, fr->n_frame,
                           v->n_token, fr->norm, fr->wide) == TY_OK)
        return TY_OK;
    return ty_fail(err, TY_ENOMEM, "vit: no memory for %d frames", fr->n);
}

/* The hidden state as [n, n_token, C]; [n_token, C] for one picture, as the goldens store it. */
static void dump_hidden(const frame *fr, const ty_dump *dump, const char *name) {
    const int64_t shape[] = {fr->n, fr->v->n_token, fr->v->width};
    int one = fr->n == 1;
    ty_dump_put(dump, name, one ? 2 : 3, shape + one, fr->x);
}

static ty_status run(const frame *fr, const float *pixels, const ty_dump *dump, ty_err *err) {
    const vit *v = fr->v;
    ty_status st = embed(fr, pixels, err);
    if (st == TY_OK) dump_hidden(fr, dump, "vit_embed");
    for (int i = 0; i < v->n_layer && st == TY_OK; i++) {
        char name[32];
        snprintf(name, sizeof name, "vit_layer%d", i);
        st = look_around(fr, &v->layers[i], err);
        if (st == TY_OK) st = attention(fr, &v->layers[i], err);
        if (st == TY_OK) st = mlp(fr, &v->layers[i], err);
        if (st == TY_OK) dump_hidden(fr, dump, name);
    }
    if (st != TY_OK) return st;
    ty_layernorm(v->pool, fr->x, fr->rows, v->width, v->post.weight, v->post.bias, v->eps, fr->x);
    return TY_OK;
}

ty_status vit_run_videos(vit *v, const float *pixels, int n, int n_frame, float *features,
                         const ty_dump *dump, ty_err *err) {
    frame fr = {0};
    if (n < 1 || n_frame < 1 || n > INT32_MAX / v->n_token / n_frame)
        return ty_fail(err, TY_EINVAL, "vit: %d pictures of %d frames in one batch", n, n_frame);
    if (n_frame > 1 && !v->temporal)
        return ty_fail(err, TY_EUNSUPPORTED,
                       "vit: a video of %d frames, but this model sees pictures alone", n_frame);
    ty_status st = frame_init(&fr, v, n * n_frame, n_frame, features, err);
    return st == TY_OK ? run(&fr, pixels, dump, err) : st;
}

ty_status vit_run(vit *v, const float *pixels, int n, float *features, const ty_dump *dump,
                  ty_err *err) {
    return vit_run_videos(v, pixels, n, 1, features, dump, err);
}
