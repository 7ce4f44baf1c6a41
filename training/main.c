/*
 * main.c - tyto-train: options, then a training run or a repeated reference run, then the exit code.
 */
#include "common/base/log.h"
#include "common/base/options.h"
#include "common/math/cpu.h"
#include "training/golden.h"
#include "training/ranks.h"
#include "training/train.h"

#include <stdio.h>
#include <string.h>

static struct {
    const char *model, *data, *images, *out, *recipe, *adapter, *frozen, *products, *trains,
        *lora_target;
    const char *golden, *run;
    double lr, epochs, weight_decay, clip, lora_alpha, lora_dropout;
    int new_layers, steps, batch, micro_batch, max_length, warmup, lora_rank, seed, save_every,
        readers, threads;
    bool recompute, merge, no_augment, list, is_new;
    const char *pipeline;
    ty_option_list pipeline_types;
} opt;

static const ty_option TABLE[] = {
    TY_OPT_STR("model", NULL, opt.model, NULL, "DIR",
               "the checkpoint to begin with, in Hugging Face's layout"),
    TY_OPT_FLAG("new", NULL, opt.is_new,
                "begin with new weights: DIR needs config.json and tokenizer.model alone"),
    TY_OPT_INT(
        "new-layers", NULL, opt.new_layers, 0, 0, 1024,
        "the language model gets N new layers behind its last, which at first change nothing"),
    TY_OPT_STR("data", NULL, opt.data, NULL, "FILE",
               "training records: v1's JSONL, v2's JSON, or {\"text\"} a line"),
    TY_OPT_STR("images", NULL, opt.images, NULL, "DIR",
               "where relative paths of pictures start; else FILE's folder"),
    TY_OPT_STR("out", NULL, opt.out, NULL, "PATH",
               "the run's folder, which it goes on from; with --golden a file"),
    TY_OPT_STR("recipe", NULL, opt.recipe, NULL, "NAME",
               "what trains and how; --recipes lists them"),
    TY_OPT_FLAG("recipes", NULL, opt.list, "list the recipes"),
    TY_OPT_INT("steps", NULL, opt.steps, 0, 0, 1 << 30, "optimizer steps; 0: by --epochs"),
    TY_OPT_DOUBLE("epochs", NULL, opt.epochs, 1, 0, 1e6, "times through the data"),
    TY_OPT_INT("batch", NULL, opt.batch, 0, 0, 1 << 20,
               "samples of a step over all ranks; 0: the recipe's"),
    TY_OPT_INT("micro-batch", NULL, opt.micro_batch, 1, 1, 1 << 16,
               "samples of one pass on one rank"),
    TY_OPT_INT("max-length", NULL, opt.max_length, 2048, 8, 1 << 20,
               "ids of a sample; longer ones are cut"),
    TY_OPT_DOUBLE("lr", NULL, opt.lr, 0, 0, 1e3, "the highest learning rate; 0: the recipe's"),
    TY_OPT_DOUBLE("weight-decay", NULL, opt.weight_decay, -1, -1, 1e3, "-1: the recipe's"),
    TY_OPT_DOUBLE("clip", NULL, opt.clip, -1, -1, 1e6,
                  "largest norm of the gradient, 0: no clipping; -1: the recipe's"),
    TY_OPT_INT("warmup", NULL, opt.warmup, -1, -1, 1 << 30, "steps of warm-up; -1: the recipe's"),
    TY_OPT_STR("trains", NULL, opt.trains, NULL, "REGEX",
               "which parameters train, instead of the recipe's"),
    TY_OPT_INT("lora-rank", NULL, opt.lora_rank, -1, -1, 1 << 16, "0: no LoRA; -1: the recipe's"),
    TY_OPT_DOUBLE("lora-alpha", NULL, opt.lora_alpha, 0, 0, 1e6, "0: the recipe's"),
    TY_OPT_DOUBLE("lora-dropout", NULL, opt.lora_dropout, -1, -1, 0.99, "-1: the recipe's"),
    TY_OPT_STR("lora-target", NULL, opt.lora_target, NULL, "REGEX",
               "which linear layers, instead of the recipe's"),
    TY_OPT_STR("adapter", NULL, opt.adapter, NULL, "DIR",
               "a LoRA adapter to begin with (PEFT's layout)"),
    TY_OPT_FLAG("merge", NULL, opt.merge, "with LoRA: write the merged model too"),
    TY_OPT_STR("pipeline", NULL, opt.pipeline, NULL, "DIR",
               "at the end write the model, merged, as a pipeline too: for `tyto up`"),
    TY_OPT_LIST("pipeline-type", opt.pipeline_types, "[STAGE=]T", STAGE_TYPES_HELP),
    TY_OPT_STR("frozen-type", NULL, opt.frozen, NULL, "TYPE",
               "keep frozen matrices as f32, f16, bf16, q8_0 or q4_0"),
    TY_OPT_STR("products", NULL, opt.products, "f32", "TYPE",
               "matrices are multiplied as f32, or rounded to bf16 (twice as fast; AVX512-BF16)"),
    TY_OPT_FLAG(
        "recompute", NULL, opt.recompute,
        "keep only the inputs of layers and run them forward again: less memory, more time"),
    TY_OPT_FLAG("no-augment", NULL, opt.no_augment,
                "v1: whole pictures, without random crop and mirror"),
    TY_OPT_INT("seed", NULL, opt.seed, 1, 0, 1 << 30, "of order, crops and new adapters"),
    TY_OPT_INT("save-every", NULL, opt.save_every, 100, 1, 1 << 30,
               "steps between two saved states"),
    TY_OPT_INT("readers", NULL, opt.readers, 2, 1, 256, "threads that decode pictures"),
    TY_OPT_INT("threads", "TYTO_THREADS", opt.threads, 0, 0, 1024,
               "that compute; 0 = one per core"),
    TY_OPT_STR("golden", NULL, opt.golden, NULL, "DIR",
               "repeat a reference run: a checkpoint with golden.json and golden.safetensors"),
    TY_OPT_STR("run", NULL, opt.run, NULL, "NAME",
               "with --golden: which run of golden.json's \"training\""),
    TY_OPT_END};

static void list_recipes(void) {
    for (int i = 0; recipe_at(i); i++) {
        const recipe *r = recipe_at(i);
        printf("%-16s %s (lr %g, batch %d)\n", r->name, r->about, r->lr, r->batch);
    }
}

/* The recipe with what the options say instead. */
static ty_status make_recipe(recipe *r, ty_err *err) {
    const recipe *found = recipe_find(opt.recipe);
    if (!found)
        return ty_fail(err, TY_ENOTFOUND, "no recipe \"%.60s\"; --recipes lists them", opt.recipe);
    *r = *found;
    if (opt.lr > 0) r->lr = opt.lr;
    if (opt.batch > 0) r->batch = opt.batch;
    if (opt.weight_decay >= 0) r->optimizer.weight_decay = opt.weight_decay;
    if (opt.clip >= 0) r->clip = opt.clip;
    if (opt.warmup >= 0) {
        r->warmup_steps = opt.warmup;
        r->warmup_ratio = 0;
    }
    if (opt.trains) r->trains = opt.trains;
    if (opt.lora_rank >= 0) r->lora_rank = opt.lora_rank;
    if (opt.lora_alpha > 0) r->lora_alpha = opt.lora_alpha;
    if (opt.lora_dropout >= 0) r->lora_dropout = opt.lora_dropout;
    if (opt.lora_target) r->lora_target = opt.lora_target;
    if (opt.no_augment) r->augment = false;
    if (r->lora_rank > 0 && (!r->lora_target || !(r->lora_alpha > 0)))
        return ty_fail(err, TY_EINVAL,
                       "LoRA needs --lora-target and --lora-alpha with this recipe");
    return TY_OK;
}

static ty_status run_training(ty_pool *pool, ty_err *err) {
    int products = ty_products_parse(opt.products);
    if (products < 0)
        return ty_fail(err, TY_EINVAL, "--products %.40s: want f32 or bf16", opt.products);
    train_config c = {.model = opt.model,
                      .data = opt.data,
                      .images = opt.images,
                      .out = opt.out,
                      .resume_from = opt.adapter,
                      .steps = opt.steps,
                      .epochs = opt.epochs,
                      .micro_batch = opt.micro_batch,
                      .max_length = opt.max_length,
                      .frozen_type = opt.frozen ? ty_dtype_parse(opt.frozen) : -1,
                      .is_new = opt.is_new,
                      .new_layers = opt.new_layers,
                      .recompute = opt.recompute,
                      .products = (ty_products)products,
                      .merge = opt.merge,
                      .pipeline = opt.pipeline,
                      .seed = (uint64_t)opt.seed,
                      .save_every = opt.save_every,
                      .readers = opt.readers};
    bool finished;
    ty_status st = make_recipe(&c.recipe, err);
    if (st == TY_OK && opt.is_new && opt.new_layers)
        st = ty_fail(err, TY_EINVAL,
                     "--new-layers is for a checkpoint: with --new config.json says how many "
                     "layers there are");
    if (st == TY_OK) st = ty_products_check(c.products, err);
    if (st == TY_OK) st = stage_types_parse(&c.pipeline_types, &opt.pipeline_types, err);
    if (st == TY_OK && opt.frozen && c.frozen_type < 0)
        st = ty_fail(err, TY_EINVAL, "--frozen-type %s: want f32, f16, bf16, q8_0 or q4_0",
                     opt.frozen);
    return st == TY_OK ? train(&c, pool, &finished, err) : st;
}

static ty_status run(ty_err *err) {
    ty_pool *pool = NULL;
    ty_status st = ty_cpu_check(err);
    if (st == TY_OK && opt.golden && strcmp(opt.products, "f32") != 0)
        st = ty_fail(err, TY_EINVAL, "--golden repeats a run in f32: leave --products %.40s out",
                     opt.products);
    if (st == TY_OK) st = ty_pool_create(&pool, opt.threads, err);
    if (st == TY_OK)
        st = opt.golden ? golden_run(opt.golden, opt.run, opt.out, opt.recompute, pool, err)
                        : run_training(pool, err);
    ty_pool_destroy(&pool);
    return st;
}

/* What is missing on the command line, or NULL. */
static const char *missing(void) {
    if (!opt.out) return "--out";
    if (opt.golden) return opt.run ? NULL : "--run";
    if (!opt.model) return "--model";
    if (!opt.data) return "--data";
    return opt.recipe ? NULL : "--recipe";
}

int main(int argc, char **argv) {
    ty_err err = {0};
    if (ranks_open(&argc, &argv, &err) != TY_OK) {
        fprintf(stderr, "tyto-train: %s\n", err.text);
        return 1;
    }
    int rc = 0;
    ty_options_next next = ty_options_parse(
        TABLE, "tyto-train --model DIR --data FILE --recipe NAME --out DIR",
        "Trains mPLUG-Owl v1, mPLUG-Owl2 and LLaMA checkpoints; see docs/training.md", argc, argv,
        NULL);
    if (next != TY_OPTIONS_GO) {
        rc = next == TY_OPTIONS_DONE ? 0 : 2;
    } else if (opt.list) {
        list_recipes();
    } else if (missing()) {
        fprintf(stderr, "tyto-train: %s is needed\n", missing());
        rc = 2;
    } else {
        ty_log_init("train", TY_LOG_INFO);
        if (run(&err) != TY_OK) {
            ty_error("%s: %s", ty_status_name(err.code), err.text);
            rc = 1;
        }
    }
    ranks_close(rc == 1);
    return rc;
}
