/*
 * run.c - `tyto run`: one question through the whole pipeline in this process.  The answer alone goes to
 * stdout, as it comes; what each stage took goes to stderr.
 */
#include "orchestration/ask_options.h"
#include "orchestration/commands.h"
#include "orchestration/local_pipeline.h"

#include "common/base/clock.h"
#include "common/math/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *pipeline, *adapter, *prompt, *raw, *system, *compute, *kv;
    ty_option_list image, video;
    int threads, context;
    ask_options ask;
    bool json, quiet;
} run_options;

/* The request that the API would get, but for the pictures' bytes. */
static json_t *build_request(const run_options *o, const ty_option *table) {
    json_t *r = json_object(), *messages = json_array();
    int bad = 0;
    if (o->raw) {
        bad |= json_object_set_new(r, "prompt", json_string(o->raw));
    } else {
        if (o->system)
            bad |= json_array_append_new(
                messages, json_pack("{s:s, s:s}", "role", "system", "content", o->system));
        bool is_video[2 * TY_OPTION_LIST_MAX] = {false};
        for (int i = 0; i < o->video.n; i++) is_video[o->image.n + i] = true;
        bad |= json_array_append_new(messages, ask_turn("user", o->image.n + o->video.n,
                                                        ask_image_here, is_video, o->prompt));
        bad |= json_object_set(r, "messages", messages);
    }
    json_decref(messages);
    if (bad) fprintf(stderr, "tyto run: the prompt is not UTF-8 text\n");
    if (bad || ask_options_to_json(&o->ask, table, r) != 0) {
        json_decref(r);
        return NULL;
    }
    return r;
}

static void print_piece(void *ctx, const char *text, size_t len) {
    bool *any = ctx;
    *any = true;
    (void)fwrite(text, 1, len, stdout);
    (void)fflush(stdout);
}

static double ms(int64_t us) {
    return (double)us / 1000;
}

static void print_timings(const local_timings *t, const local_answer *a, int64_t total_us) {
    fprintf(stderr, "load        %9.1f ms\n", ms(t->load_us));
    if (t->abstractor_us > 0)
        fprintf(stderr, "preprocess  %9.1f ms\nvit         %9.1f ms\nabstractor  %9.1f ms\n",
                ms(t->preprocess_us), ms(t->vit_us), ms(t->abstractor_us));
    fprintf(stderr, "prefill     %9.1f ms  %d rows, %d of them visual\n", ms(t->prefill_us),
            a->n_prompt, a->n_visual);
    fprintf(stderr, "decode      %9.1f ms  %d tokens", ms(t->decode_us), a->n_token);
    if (t->decode_us > 0 && a->n_token > 1)
        fprintf(stderr, ", %.1f a second", (a->n_token - 1) / (ms(t->decode_us) / 1000));
    fprintf(stderr, "\ntotal       %9.1f ms  finish: %s\n", ms(total_us), a->finish);
}

static int print_json(const char *model, const local_timings *t, const local_answer *a) {
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:{s:i, s:i, s:i}, s:f, s:{s:f, s:f, s:f, s:f, s:f, s:f}}",
                  "model", model, "text", a->text, "finish_reason", a->finish, "usage",
                  "prompt_tokens", a->n_prompt, "visual_tokens", a->n_visual, "completion_tokens",
                  a->n_token, "score", a->score, "timings_ms", "load", ms(t->load_us), "preprocess",
                  ms(t->preprocess_us), "vit", ms(t->vit_us), "abstractor", ms(t->abstractor_us),
                  "prefill", ms(t->prefill_us), "decode", ms(t->decode_us));
    char *text = o ? json_dumps(o, JSON_INDENT(1)) : NULL;
    if (text) puts(text);
    free(text);
    json_decref(o);
    return text ? 0 : -1;
}

static ty_status load(local_pipeline **p, const run_options *o, local_timings *t, ty_err *err) {
    local_options lo = {.dir = o->pipeline,
                        .adapter = o->adapter,
                        .compute = (ty_compute)ty_compute_parse(o->compute),
                        .kv = strcmp(o->kv, "f16") == 0 ? TY_F16 : TY_F32,
                        .threads = o->threads,
                        .context = o->context,
                        .upright = o->ask.upright};
    int64_t since_us = ty_now_us();
    ty_status st = local_create(p, &lo, err);
    t->load_us += ty_now_us() - since_us;
    return st;
}

static ty_status answer(const run_options *o, const json_t *json, ty_err *err) {
    local_pipeline *p = NULL;
    local_pictures pictures = {0};
    local_timings t = {0};
    local_answer a = {0};
    ty_chat_request r = {0};
    bool any = false;
    int64_t since_us = ty_now_us();
    ty_status st = ask_parse(json, &r, err);
    if (st == TY_OK) st = ask_draw_seed(&r, err);
    if (st == TY_OK) st = load(&p, o, &t, err);
    if (st == TY_OK && o->image.n > 0)
        st = local_see(p, o->image.item, o->image.n, &pictures, &t, err);
    for (int i = 0; st == TY_OK && i < o->video.n; i++)
        st = local_see_video(p, o->video.item[i], &pictures, &t, err);
    if (st == TY_OK)
        st = local_ask(p, &r, &pictures, o->json ? NULL : print_piece, &any, NULL, &a, &t, err);
    if (st == TY_OK && o->json && print_json(local_name(p), &t, &a) != 0)
        st = ty_fail(err, TY_ENOMEM, "out of memory for the JSON");
    if (!o->json && (any || st == TY_OK)) putchar('\n');
    if (st == TY_OK && !o->quiet) print_timings(&t, &a, ty_now_us() - since_us);
    if (fflush(stdout) != 0 && st == TY_OK) st = ty_fail(err, TY_EIO, "stdout cannot be written");
    free(a.text);
    local_pictures_clear(&pictures);
    local_destroy(&p);
    ty_chat_request_clear(&r);
    return st;
}

static run_options opt;
static const ty_option table[] = {
    TY_OPT_STR("pipeline", "TYTO_PIPELINE", opt.pipeline, NULL, "DIR", "made by `tyto import`"),
    TY_OPT_STR("adapter", NULL, opt.adapter, NULL, "DIR", "a LoRA adapter (PEFT's layout) to use"),
    TY_OPT_LIST("image", opt.image, "FILE", "JPEG, PNG or WebP; may repeat; \"-\" is stdin"),
    TY_OPT_LIST("video", opt.video, "FILE",
                "GIF, animated WebP, AVI, MP4 or Matroska, after the pictures; may repeat"),
    TY_OPT_STR("prompt", NULL, opt.prompt, NULL, "TEXT", "the user's turn, after its pictures"),
    TY_OPT_STR("raw", NULL, opt.raw, NULL, "TEXT",
               "a whole prompt, verbatim; \"<image>\" (v2: \"<|image|>\") stands for each picture, "
               "\"<|video|>\" for each video"),
    TY_OPT_STR("system", NULL, opt.system, NULL, "TEXT", "system message (replaces the preamble)"),
    ASK_OPTIONS(opt.ask),
    TY_OPT_INT("threads", "TYTO_THREADS", opt.threads, 0, 0, 1024, "0 = one per core"),
    TY_OPT_STR("compute", "TYTO_COMPUTE", opt.compute, "auto", "auto|f32|bf16|int8", "arithmetic"),
    TY_OPT_STR("kv", "TYTO_KV", opt.kv, "f32", "f32|f16", "KV cache"),
    TY_OPT_INT("context", "TYTO_CONTEXT", opt.context, 0, 0, 1 << 24, "0 = the model's own"),
    TY_OPT_FLAG("json", NULL, opt.json, "print a JSON object instead of the text"),
    TY_OPT_FLAG("quiet", NULL, opt.quiet, "no timings"),
    TY_OPT_END};

static const char *usage_fault(void) {
    if (!opt.pipeline) return "--pipeline DIR is missing (`tyto import` makes one)";
    if (!opt.prompt == !opt.raw) return "give --prompt TEXT or --raw TEXT, one of the two";
    if (opt.raw && opt.system) return "--system does not go with --raw";
    if (ty_compute_parse(opt.compute) < 0) return "--compute is auto, f32, bf16 or int8";
    if (strcmp(opt.kv, "f32") != 0 && strcmp(opt.kv, "f16") != 0) return "--kv is f32 or f16";
    return NULL;
}

int cmd_run(int argc, char **argv) {
    ty_options_next next = ty_options_parse(
        table, "tyto run --pipeline DIR [--image FILE] --prompt TEXT",
        "Answers one question with the whole pipeline in this process, without sockets.\nThe "
        "answer goes to stdout, timings to stderr.",
        argc, argv, NULL);
    if (next != TY_OPTIONS_GO) return next == TY_OPTIONS_DONE ? 0 : 2;
    ty_err err = {0};
    const char *fault = usage_fault();
    if (!fault && ty_cpu_check(&err) != TY_OK) fault = err.text;
    if (fault) {
        fprintf(stderr, "tyto run: %s\n", fault);
        return 2;
    }
    json_t *json = build_request(&opt, table);
    if (!json) return 2;
    ty_status st = answer(&opt, json, &err);
    json_decref(json);
    if (st != TY_OK) fprintf(stderr, "tyto run: %s\n", err.text);
    return st == TY_OK ? 0 : 1;
}
