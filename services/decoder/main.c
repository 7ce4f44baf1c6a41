/*
 * tyto-decoder - the LLM stage: prompt and visual tokens -> text, for one request file (--in) or as a
 * worker of the broker (--connect).
 */
#include "common/base/log.h"
#include "common/math/cpu.h"
#include "common/model/adapter.h"
#include "common/wire/stage_options.h"
#include "services/decoder/offline.h"
#include "services/decoder/stage.h"

#include <stdio.h>
#include <string.h>

static ty_stage_options opt;
static struct {
    const char *visual, *logits, *kv;
    ty_option_list adapters;
    int context, kv_mib, prefix_mib, chunk_ms, prefill_chunk;
} own;

static const ty_option table[] = {
    TY_STAGE_OPTIONS(opt, "decoder.0", 64),
    TY_COMPUTE_OPTIONS(opt),
    TY_OPT_STR("visual", NULL, own.visual, NULL, "FILE",
               "offline: safetensors with visual_tokens, a row block per picture, in order"),
    TY_OPT_STR("logits", NULL, own.logits, NULL, "all|last",
               "offline: write logits of all prompt positions, or of the last; absent: none"),
    TY_OPT_STR("kv", "TYTO_KV", own.kv, "f32", "TYPE", "type of the KV cache: f32 or f16"),
    TY_OPT_INT("kv-mib", "TYTO_KV_MIB", own.kv_mib, 0, 0, 1 << 24,
               "memory for the KV cache in MiB; 0 = four contexts, at most a quarter of the RAM"),
    TY_OPT_INT(
        "prefix-mib", "TYTO_PREFIX_MIB", own.prefix_mib, 0, -1, 1 << 24,
        "of it, kept for prompts that begin like earlier ones, in MiB; 0 = all that no request "
        "needs, -1 = none"),
    TY_OPT_INT("context", "TYTO_CONTEXT", own.context, 0, 0, 1 << 20,
               "positions a sequence may have; 0 = the model's own"),
    TY_OPT_INT(
        "chunk-ms", "TYTO_CHUNK_MS", own.chunk_ms, 30, 0, 1000,
        "tokens of an answer that follow each other so closely travel together; 0 = none do"),
    TY_OPT_INT("prefill-chunk", "TYTO_PREFILL_CHUNK", own.prefill_chunk, 0, 0, 1 << 16,
               "prompt rows in one step; 0 = 256"),
    TY_OPT_LIST_VAR("adapter", "TYTO_ADAPTERS", own.adapters, "[MODEL+]NAME=DIR",
                    "a LoRA adapter (PEFT's layout) that requests may ask for; repeat for more. "
                    "Offline: one at most, and the request has it"),
    TY_OPT_END};

static const char about[] =
    "The LLM stage: a prompt and its pictures' visual tokens to text.\n"
    "  tyto-decoder --model P/decoder.gguf --in request.json [--visual z.safetensors]\n"
    "               [--logits all|last] [--dump] [--adapter NAME=DIR] --out o.safetensors\n"
    "reads a request, {\"prompt\": \"...<image>...\", \"max_tokens\": 32, ...} or {\"messages\": "
    "[...]}, "
    "and\n"
    "writes input_ids, generated_ids and, when asked, logits.\n";

static ty_status serve(decoder *d, ty_err *err) {
    const int64_t shape[] = {-1, decoder_width(d)};
    ty_stage_spec takes;
    ty_stage_spec_init(&takes, "visual_tokens", TYTO__DTYPE__DTYPE_F32, 2, shape);
    ty_worker_contract c = ty_stage_contract(&opt, decoder_model_id(d), &takes, &takes);
    c.n_gives = 0;
    c.credits = opt.credits > 0 ? opt.credits : opt.batch;
    const char *id[TY_OPTION_LIST_MAX];
    for (int i = 0; i < decoder_adapters(d); i++) {
        id[i] = decoder_adapter_id(d, i);
        ty_info("adapter=%s id=%s", decoder_adapter_name(d, i), id[i]);
    }
    c.adapters = id;
    c.n_adapters = decoder_adapters(d);
    decoder_stats s;
    decoder_get_stats(d, &s);
    ty_info("serve model=%s id=%s kernels=%s rows=%d context=%d kv=%s kv_pages=%d", opt.model,
            decoder_model_id(d), ty_cpu_kernels(), opt.batch, decoder_context(d), own.kv,
            s.pages_total);
    decoder_service service = {.d = d, .chunk_us = (int64_t)own.chunk_ms * 1000};
    return ty_worker_run(&decoder_stage, &service, &c, err);
}

static ty_status offline(decoder *d, ty_err *err) {
    decoder_offline_args a = {.in = opt.in.item[0],
                              .visual = own.visual,
                              .out = opt.out,
                              .logits_rows = decoder_offline_logits_parse(own.logits),
                              .dump = opt.dump};
    return decoder_offline(d, &a, err);
}

/* Names and folders of --adapter; MODEL+ is the gateway's affair. */
static ty_status read_adapters(ty_adapter_option *named, decoder_adapter *out, ty_err *err) {
    for (int i = 0; i < own.adapters.n; i++) {
        ty_status st = ty_adapter_option_parse(&named[i], own.adapters.item[i], err);
        if (st != TY_OK) return st;
        out[i] = (decoder_adapter){named[i].name, named[i].dir};
    }
    return TY_OK;
}

static ty_status run(ty_compute compute, ty_dtype kv, ty_err *err) {
    ty_pool *pool = NULL;
    ty_adapter_option named[TY_OPTION_LIST_MAX];
    decoder_adapter adapter[TY_OPTION_LIST_MAX];
    decoder *d = NULL;
    decoder_options o = {.kv = kv,
                         .context = own.context,
                         .max_rows = opt.batch,
                         .prefill_chunk = own.prefill_chunk,
                         .prefix_mib = own.prefix_mib,
                         .kv_bytes = (size_t)own.kv_mib << 20,
                         .adapters = adapter,
                         .n_adapters = own.adapters.n};
    ty_status st = read_adapters(named, adapter, err);
    if (st == TY_OK) st = ty_pool_create(&pool, opt.threads, err);
    o.run = (ty_run_options){.compute = compute, .pool = pool};
    if (st == TY_OK) st = decoder_create(&d, opt.model, &o, err);
    if (st == TY_OK) st = ty_stage_is_offline(&opt) ? offline(d, err) : serve(d, err);
    decoder_destroy(&d);
    ty_pool_destroy(&pool);
    return st;
}

/* What the table cannot check; a failure is a usage error. */
static ty_status check(int compute, int kv, ty_err *err) {
    ty_status st = ty_stage_options_check(&opt, 1, err);
    if (st == TY_OK && compute < 0)
        st = ty_fail(err, TY_EINVAL, "--compute %s: want auto, f32, bf16 or int8", opt.compute);
    if (st == TY_OK && kv != TY_F32 && kv != TY_F16)
        st = ty_fail(err, TY_EINVAL, "--kv %s: want f32 or f16", own.kv);
    if (st == TY_OK && decoder_offline_logits_parse(own.logits) == -2)
        st = ty_fail(err, TY_EINVAL, "--logits %s: want all or last", own.logits);
    if (st == TY_OK && !ty_stage_is_offline(&opt) && (own.visual || own.logits))
        st = ty_fail(err, TY_EINVAL, "--visual and --logits go with --in");
    if (st == TY_OK && ty_stage_is_offline(&opt) && own.adapters.n > 1)
        st = ty_fail(err, TY_EINVAL, "--adapter with --in: one at most");
    if (st == TY_OK) st = ty_cpu_check(err);
    return st;
}

int main(int argc, char **argv) {
    ty_err err = {0};
    switch (ty_options_parse(table, "tyto-decoder [options]", about, argc, argv, NULL)) {
    case TY_OPTIONS_DONE: return 0;
    case TY_OPTIONS_USAGE: return 2;
    case TY_OPTIONS_GO: break;
    }
    int compute = ty_compute_parse(opt.compute), kv = ty_dtype_parse(own.kv);
    ty_status st = check(compute, kv, &err);
    int usage = st != TY_OK;
    if (st == TY_OK) st = run((ty_compute)compute, (ty_dtype)kv, &err);
    if (st == TY_OK) return 0;
    fprintf(stderr, "tyto-decoder: %s\n", err.text);
    return usage ? 2 : 1;
}
