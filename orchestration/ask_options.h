/*
 * ask_options.h - the generation options of `tyto run`, `chat` and `ask`: one table, and its way into a
 * request's JSON.  The JSON goes through the API's own parser, so that the same names, ranges and
 * defaults hold on the command line and over HTTP.
 */
#ifndef TY_ASK_OPTIONS_H
#define TY_ASK_OPTIONS_H

#include "common/base/options.h"
#include "common/chat/request.h"

#include <jansson.h>

typedef struct {
    int max_tokens, top_k, no_repeat_ngram_size, num_beams;
    double temperature, top_p, repetition_penalty, length_penalty;
    const char *seed, *template_name;
    ty_option_list stop;
    bool ignore_eos, upright;
} ask_options;

/* Lines for a command's option table; o: an ask_options with static storage. */
#define ASK_OPTIONS(o)                                                                             \
    TY_OPT_INT("max-tokens", NULL, (o).max_tokens, 256, 0, 1 << 24, "longest answer, in tokens"),  \
        TY_OPT_DOUBLE("temperature", NULL, (o).temperature, 0, 0, 100, "0 = greedy"),              \
        TY_OPT_INT("top-k", NULL, (o).top_k, 0, 0, 1 << 24, "0 = off"),                            \
        TY_OPT_DOUBLE("top-p", NULL, (o).top_p, 1, 0, 1, "1 = off"),                               \
        TY_OPT_DOUBLE("repetition-penalty", NULL, (o).repetition_penalty, 1, 0, 100, "1 = off"),   \
        TY_OPT_INT("no-repeat-ngram-size", NULL, (o).no_repeat_ngram_size, 0, 0, 1 << 24,          \
                   "0 = off"),                                                                     \
        TY_OPT_INT("num-beams", NULL, (o).num_beams, 1, 1, 1 << 24, "beam search from 2 on"),      \
        TY_OPT_DOUBLE("length-penalty", NULL, (o).length_penalty, 1, -100, 100, "of beams"),       \
        TY_OPT_STR("seed", NULL, (o).seed, NULL, "N", "of the draws, with a temperature"),         \
        TY_OPT_LIST("stop", (o).stop, "TEXT", "end before this text; may repeat"),                 \
        TY_OPT_FLAG("ignore-eos", NULL, (o).ignore_eos, "go on to --max-tokens"),                  \
        TY_OPT_FLAG("upright", NULL, (o).upright, "turn pictures as their EXIF orientation says"), \
        TY_OPT_STR("template", NULL, (o).template_name, NULL, "NAME",                              \
                   "readme, serve, mplug_owl2 or vicuna_v1; absent = the model's own")

/* Sets the fields of those options that were given.  Exits no one: 0, or -1 after a message. */
int ask_options_to_json(const ask_options *o, const ty_option *table, json_t *request);

/* {"role": role, "content": [n_image picture parts of the form `image`, text]}; text NULL: none.
 * image(i) makes one picture part; NULL when out of memory. */
json_t *ask_turn(const char *role, int n_image, json_t *(*image)(void *ctx, int i), void *ctx,
                 const char *text);
/* {"type": "image"} or {"type": "video"}: what comes by another way.  ctx: const bool [n], which are videos; NULL: none. */
json_t *ask_image_here(void *ctx, int i);
/* The request's JSON through the API's parser (not strict).  ty_chat_request_clear *out. */
ty_status ask_parse(const json_t *request, ty_chat_request *out, ty_err *err);
/* A request without a seed that will draw gets a random one, as the gateway does it. */
ty_status ask_draw_seed(ty_chat_request *r, ty_err *err);

#endif
