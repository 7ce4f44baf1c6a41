/*
 * main.c - tyto-train: options, one run, exit code.
 */
#include "common/base/log.h"
#include "common/base/options.h"
#include "common/math/cpu.h"
#include "training/golden.h"

#include <stdio.h>

static struct {
    const char *golden, *run, *out;
    int threads;
    bool recompute;
} opt;

static const ty_option TABLE[] = {
    TY_OPT_STR("golden", NULL, opt.golden, NULL, "DIR",
               "repeat a reference run: a checkpoint with golden.json and golden.safetensors"),
    TY_OPT_STR("run", NULL, opt.run, NULL, "NAME", "which run of golden.json's \"training\""),
    TY_OPT_STR("out", NULL, opt.out, NULL, "PATH", "what is written"),
    TY_OPT_INT("threads", "TYTO_THREADS", opt.threads, 0, 0, 1024, "0 = one per core"),
    TY_OPT_FLAG(
        "recompute", NULL, opt.recompute,
        "keep only the inputs of layers and run them forward again: less memory, more time"),
    TY_OPT_END};

static ty_status run(ty_err *err) {
    ty_pool *pool = NULL;
    ty_status st = ty_cpu_check(err);
    if (st == TY_OK) st = ty_pool_create(&pool, opt.threads, err);
    if (st == TY_OK) st = golden_run(opt.golden, opt.run, opt.out, opt.recompute, pool, err);
    ty_pool_destroy(&pool);
    return st;
}

int main(int argc, char **argv) {
    ty_err err = {0};
    switch (ty_options_parse(TABLE, "tyto-train --golden DIR --run NAME --out FILE",
                             "trains mPLUG-Owl models", argc, argv, NULL)) {
    case TY_OPTIONS_DONE: return 0;
    case TY_OPTIONS_USAGE: return 2;
    case TY_OPTIONS_GO: break;
    }
    if (!opt.golden || !opt.run || !opt.out) {
        fprintf(stderr, "tyto-train: --golden, --run and --out are needed\n");
        return 2;
    }
    ty_log_init("train", TY_LOG_INFO);
    if (run(&err) == TY_OK) return 0;
    ty_error("%s: %s", ty_status_name(err.code), err.text);
    return 1;
}
