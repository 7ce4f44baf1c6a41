/* source.c - see source.h. */
#include "orchestration/source.h"
#include "orchestration/source_dims.h"

#include "common/base/file.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { VIDEO_FRAMES = 4 }; /* that the reference takes from a video */
enum { MAX_JSON = 64 << 20 };

ty_status source_find(source *s, const char *name, char *path, size_t size, ty_err *err) {
    if (snprintf(path, size, "%s/%s", s->dir, name) >= (int)size)
        return ty_fail(err, TY_EINVAL, "%.200s: path is too long", s->dir);
    if (access(path, F_OK) == 0) return TY_OK;
    if (snprintf(path, size, "%s/../%s", s->dir, name) < (int)size && access(path, F_OK) == 0) {
        size_t at = strlen(s->notes);
        snprintf(s->notes + at, sizeof(s->notes) - at, "%s is not there, taken from %s\n", name,
                 path);
        return TY_OK;
    }
    return ty_fail(err, TY_ENOTFOUND,
                   "%s: has no %s, nor has the directory above: copy the one of the released model",
                   s->dir, name);
}

ty_status source_json(source *s, const char *name, json_t **out, ty_err *err) {
    char path[4400], *text = NULL;
    size_t size = 0;
    json_error_t why;
    *out = NULL;
    if (source_find(s, name, path, sizeof(path), NULL) != TY_OK) return TY_OK;
    ty_status st = ty_file_read(path, MAX_JSON, &text, &size, err);
    if (st != TY_OK) return st;
    *out = json_loadb(text, size, 0, &why);
    free(text);
    if (json_is_object(*out)) return TY_OK;
    st = *out ? ty_fail(err, TY_EFORMAT, "%s: is not an object", path)
              : ty_fail(err, TY_EFORMAT, "%s: line %d: %s", path, why.line, why.text);
    json_decref(*out);
    *out = NULL;
    return st;
}

/* --- preprocessor_config.json --- */

/* {"shortest_edge": 224}, 224, {"height": 224, "width": 224}; 0: not there. */
static int edge_of(const json_t *j) {
    if (json_is_object(j)) {
        const json_t *edge = json_object_get(j, "shortest_edge");
        j = edge ? edge : json_object_get(j, "height");
    }
    json_int_t v = json_is_integer(j) ? json_integer_value(j) : 0;
    return v > 0 && v <= 16384 ? (int)v : 0;
}

static ty_status get_triple(const json_t *o, const char *key, float v[3], ty_err *err) {
    const json_t *j = json_object_get(o, key);
    if (!j) return TY_OK;
    for (size_t i = 0; i < 3; i++) {
        const json_t *x = json_array_get(j, i);
        if (json_array_size(j) != 3 || !json_is_number(x) || !(json_number_value(x) > 0))
            return ty_fail(err, TY_EFORMAT,
                           "preprocessor_config.json: \"%s\" is not three numbers > 0", key);
        v[i] = (float)json_number_value(x);
    }
    return TY_OK;
}

/* How v2 makes a picture square: config.json's image_aspect_ratio.  Without it "resize", as the
 * reference's evaluation does; a word that it does not know makes it crop. */
static const char *v2_mode(source *s) {
    const char *ratio = json_string_value(json_object_get(s->config, "image_aspect_ratio"));
    if (!ratio || strcmp(ratio, "resize") == 0) return "resize";
    if (strcmp(ratio, "pad") == 0) return "pad";
    size_t at = strlen(s->notes);
    snprintf(s->notes + at, sizeof(s->notes) - at,
             "image_aspect_ratio \"%.32s\": pictures are cropped, as the reference does\n", ratio);
    return "crop";
}

static ty_status read_preprocess(source *s, ty_err *err) {
    ty_preprocess_dims d = ty_layout_clip();
    if (s->video) d.n_frame = VIDEO_FRAMES;
    if (s->v2) {
        d.image_size = 448;
        d.mode = v2_mode(s);
    }
    json_t *o = NULL;
    ty_status st = source_json(s, "preprocessor_config.json", &o, err);
    if (st != TY_OK) return st;
    if (!o)
        return ty_fail(err, TY_ENOTFOUND,
                       "%s: has no preprocessor_config.json, nor has the directory above: copy the "
                       "one of the released model",
                       s->dir);
    int edge = edge_of(json_object_get(o, "size"));
    if (!edge) edge = edge_of(json_object_get(o, "crop_size"));
    if (edge) d.image_size = edge;
    const json_t *scale = json_object_get(o, "rescale_factor");
    if (json_is_number(scale) && json_number_value(scale) > 0)
        d.scale = (float)json_number_value(scale);
    st = get_triple(o, "image_mean", d.mean, err);
    if (st == TY_OK) st = get_triple(o, "image_std", d.std, err);
    json_decref(o);
    s->preprocess = d;
    return st;
}

/* --- which model it is --- */

static ty_status other_model(const source *s, const char *seen, const char *what, ty_err *err) {
    return ty_fail(err, TY_EUNSUPPORTED,
                   "%s: %s: this is %s, which import does not read yet; it reads mPLUG-Owl v1 on "
                   "LLaMA and on BLOOM, its video variant, mPLUG-Owl2, and plain LLaMA and BLOOM",
                   s->dir, seen, what);
}

/* The video variant has v1's model_type; its tensors tell. */
static bool has_temporal(const source *s) {
    for (int i = 0; i < ty_checkpoint_count(s->checkpoint); i++)
        if (strstr(ty_checkpoint_name(s->checkpoint, i), "temporal")) return true;
    return false;
}

/* Where BLOOM's tensors begin: files of the bare model leave "transformer." out. */
static const char *bloom_prefix(const source *s) {
    static const char *const all[] = {"language_model.transformer.", "transformer."};
    char name[64];
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        snprintf(name, sizeof(name), "%sword_embeddings.weight", all[i]);
        if (ty_checkpoint_has(s->checkpoint, name)) return all[i];
    }
    return "";
}

static ty_status read_family(source *s, ty_err *err) {
    const char *type = json_string_value(json_object_get(s->config, "model_type"));
    const json_t *text = json_object_get(s->config, "text_config");
    const char *text_type = json_string_value(json_object_get(text, "model_type"));
    char seen[128];
    if (!type) return ty_fail(err, TY_EFORMAT, "%s: config.json has no model_type", s->dir);
    snprintf(seen, sizeof(seen), "model_type \"%.64s\"", type);
    s->v2 = strcmp(type, "mplug_owl2") == 0;
    s->vision = s->v2 || strcmp(type, "mplug-owl") == 0 || strcmp(type, "mplug_owl") == 0;
    s->decoder.bloom = !s->v2 && strcmp(s->vision && text_type ? text_type : type, "bloom") == 0;
    if (!s->vision && !s->decoder.bloom && strcmp(type, "llama") != 0)
        return other_model(s, seen, "another model", err);
    if (s->vision && text_type && !s->decoder.bloom && strcmp(text_type, "llama") != 0) {
        snprintf(seen, sizeof(seen), "text model_type \"%.64s\"", text_type);
        return other_model(s, seen, "mPLUG-Owl on another language model", err);
    }
    s->video = s->vision && !s->v2 && has_temporal(s);
    s->family = s->v2       ? "mplug_owl_v2"
                : s->video  ? "mplug_owl_v1_video"
                : s->vision ? "mplug_owl_v1"
                            : type;
    for (int k = 0; k < TY_STAGE_COUNT; k++) s->prefix[k] = "";
    if (s->v2) s->prefix[TY_STAGE_VIT] = s->prefix[TY_STAGE_ABSTRACTOR] = "model.";
    if (s->vision && !s->v2) s->prefix[TY_STAGE_DECODER] = "language_model.";
    if (s->decoder.bloom) s->prefix[TY_STAGE_DECODER] = bloom_prefix(s);
    /* What the reference's inference takes: v1 AutoTokenizer, v2 the slow one. */
    s->tokenizer_mode = s->v2 ? "slow" : "fast";
    return TY_OK;
}

/* The abstractor stands between the two others. */
static ty_status check_joints(const source *s, ty_err *err) {
    if (s->abstractor.n_in != s->vit.width)
        return ty_fail(err, TY_ESHAPE, "%s: the ViT's width is %d, the abstractor takes %d", s->dir,
                       s->vit.width, s->abstractor.n_in);
    int grid = s->vit.image_size / s->vit.patch_size;
    if (s->v2 && s->abstractor.grid != grid)
        return ty_fail(err, TY_ESHAPE,
                       "%s: config.json: the abstractor's grid_size is %d, the ViT makes %d x %d "
                       "patches",
                       s->dir, s->abstractor.grid, grid, grid);
    if (s->abstractor.n_out != s->decoder.width)
        return ty_fail(err, TY_ESHAPE, "%s: visual_fc gives %d, the decoder's width is %d", s->dir,
                       s->abstractor.n_out, s->decoder.width);
    return TY_OK;
}

ty_status source_open(source *s, const char *dir, ty_err *err) {
    memset(s, 0, sizeof(*s));
    if (snprintf(s->dir, sizeof(s->dir), "%s", dir) >= (int)sizeof(s->dir))
        return ty_fail(err, TY_EINVAL, "%.200s: path is too long", dir);
    if (access(dir, F_OK) != 0) return ty_fail(err, TY_ENOTFOUND, "%s: no such directory", dir);
    ty_status st = ty_checkpoint_open(&s->checkpoint, dir, err);
    if (st == TY_OK) st = source_json(s, "config.json", &s->config, err);
    if (st == TY_OK && !s->config)
        st = ty_fail(err, TY_ENOTFOUND,
                     "%s: has no config.json: copy the one of the released model", dir);
    if (st == TY_OK) st = read_family(s, err);
    if (st == TY_OK && s->vision) st = read_preprocess(s, err);
    if (st == TY_OK && s->vision) st = source_read_vit(s, err);
    if (st == TY_OK && s->vision) st = source_read_abstractor(s, err);
    if (st == TY_OK) st = source_read_decoder(s, err);
    if (st == TY_OK && s->vision) st = check_joints(s, err);
    if (st != TY_OK) source_close(s);
    return st;
}

void source_close(source *s) {
    ty_checkpoint_close(&s->checkpoint);
    json_decref(s->config);
    s->config = NULL;
}
