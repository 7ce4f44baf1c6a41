/*
 * chat.c - `tyto chat`: a conversation in the terminal, with the whole pipeline in this process.  On a
 * terminal lines are edited and remembered (libedit), and Ctrl-C stops an answer, not the program;
 * otherwise lines are read as they come and only answers are printed.
 */
#include "orchestration/ask_options.h"
#include "orchestration/commands.h"
#include "orchestration/local_pipeline.h"

#include "common/math/cpu.h"

#include <editline/readline.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *pipeline, *adapter, *system, *compute, *kv;
    int threads, context;
    ask_options ask;
} chat_options;

typedef struct {
    const chat_options *opt;
    const ty_option *table;
    local_pipeline *pipeline;
    json_t *messages;
    local_pictures pictures;
    int n_pending; /* pictures seen since the last turn, videos too */
    bool is_video[TY_CHAT_IMAGES_MAX];
    bool terminal, quit;
} chat;

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

/* ---- one turn ---- */

static void print_piece(void *ctx, const char *text, size_t len) {
    (void)ctx;
    (void)fwrite(text, 1, len, stdout);
    (void)fflush(stdout);
}

static ty_status make_request(const chat *c, ty_chat_request *out, ty_err *err) {
    json_t *r = json_object();
    ty_status st;
    if (!r || json_object_set(r, "messages", c->messages) != 0 ||
        ask_options_to_json(&c->opt->ask, c->table, r) != 0)
        st = ty_fail(err, TY_EINVAL, "the request cannot be made");
    else
        st = ask_parse(r, out, err);
    if (st == TY_OK) st = ask_draw_seed(out, err);
    json_decref(r);
    return st;
}

static ty_status answer_messages(chat *c, local_answer *a, ty_err *err) {
    ty_chat_request r = {0};
    local_timings t = {0};
    ty_status st = make_request(c, &r, err);
    interrupted = 0;
    if (st == TY_OK)
        st = local_ask(c->pipeline, &r, &c->pictures, print_piece, NULL, &interrupted, a, &t, err);
    ty_chat_request_clear(&r);
    return st;
}

/* A failed turn leaves the conversation as it was, its pictures still waiting. */
static void say(chat *c, const char *line) {
    ty_err err = {0};
    local_answer a = {0};
    if (json_array_append_new(
            c->messages, ask_turn("user", c->n_pending, ask_image_here, c->is_video, line)) != 0) {
        fprintf(stderr, "this line is not UTF-8 text\n");
        return;
    }
    ty_status st = answer_messages(c, &a, &err);
    if (st == TY_OK || st == TY_ECANCELED) {
        puts(st == TY_OK ? "" : " [stopped]");
        (void)json_array_append_new(c->messages, json_pack("{s:s, s:s}", "role", "assistant",
                                                           "content", a.text ? a.text : ""));
        c->n_pending = 0;
    } else {
        fprintf(stderr, "%s\n", err.text);
        (void)json_array_remove(c->messages, json_array_size(c->messages) - 1);
    }
    fflush(stdout);
    free(a.text);
}

/* ---- commands ---- */

static ty_status see(chat *c, const char *path, bool video, ty_err *err) {
    local_timings t = {0};
    return video ? local_see_video(c->pipeline, path, &c->pictures, &t, err)
                 : local_see(c->pipeline, &path, 1, &c->pictures, &t, err);
}

static void do_see(chat *c, const char *path, bool video) {
    ty_err err = {0};
    if (!*path) {
        fprintf(stderr, "/%s FILE: which one?\n", video ? "video" : "image");
    } else if (c->n_pending == TY_CHAT_IMAGES_MAX) {
        fprintf(stderr, "%d are waiting already; ask about them first\n", c->n_pending);
    } else if (see(c, path, video, &err) != TY_OK) {
        fprintf(stderr, "%s\n", err.text);
    } else {
        c->is_video[c->n_pending++] = video;
        if (c->terminal) printf("seen: %d rows; now ask about it\n", c->pictures.rows);
    }
}

static int do_reset(chat *c) {
    (void)json_array_clear(c->messages);
    local_pictures_clear(&c->pictures);
    c->n_pending = 0;
    if (!c->opt->system) return 0;
    return json_array_append_new(
        c->messages, json_pack("{s:s, s:s}", "role", "system", "content", c->opt->system));
}

static const char help_text[] = "/image FILE  show a picture with the next question\n"
                                "/video FILE  show a video, to a model that sees them\n"
                                "/reset       forget the conversation\n"
                                "/quit        leave (also Ctrl-D)\n"
                                "Ctrl-C       stop the answer\n";

static void do_command(chat *c, char *line) {
    char *arg = line + strcspn(line, " ");
    if (*arg) *arg++ = '\0';
    arg += strspn(arg, " ");
    if (strcmp(line, "/image") == 0)
        do_see(c, arg, false);
    else if (strcmp(line, "/video") == 0)
        do_see(c, arg, true);
    else if (strcmp(line, "/reset") == 0)
        (void)do_reset(c);
    else if (strcmp(line, "/quit") == 0)
        c->quit = true;
    else if (strcmp(line, "/help") == 0)
        fputs(help_text, stderr);
    else
        fprintf(stderr, "there is no command %s; /help lists them\n", line);
}

static void take_line(chat *c, char *line) {
    size_t n = strlen(line);
    while (n > 0 && strchr(" \t\r\n", line[n - 1])) line[--n] = '\0';
    if (n == 0) return;
    if (line[0] == '/')
        do_command(c, line);
    else
        say(c, line);
}

/* ---- reading ---- */

static void read_terminal(chat *c) {
    rl_readline_name = "tyto";
    using_history();
    printf("%s; /help lists the commands\n", local_name(c->pipeline));
    while (!c->quit) {
        interrupted = 0;
        char *line = readline("> ");
        if (!line && interrupted) { /* Ctrl-C at the prompt: a fresh line */
            putchar('\n');
            continue;
        }
        if (!line) break;
        if (*line) add_history(line);
        take_line(c, line);
        free(line);
    }
}

static void read_lines(chat *c) {
    char *line = NULL;
    size_t size = 0;
    while (!c->quit && getline(&line, &size, stdin) >= 0) take_line(c, line);
    free(line);
}

static ty_status converse(chat *c, ty_err *err) {
    const chat_options *o = c->opt;
    local_options lo = {.dir = o->pipeline,
                        .adapter = o->adapter,
                        .compute = (ty_compute)ty_compute_parse(o->compute),
                        .kv = strcmp(o->kv, "f16") == 0 ? TY_F16 : TY_F32,
                        .threads = o->threads,
                        .context = o->context,
                        .upright = o->ask.upright};
    ty_status st = local_create(&c->pipeline, &lo, err);
    c->messages = json_array();
    if (st == TY_OK && (!c->messages || do_reset(c) != 0))
        st = ty_fail(err, TY_EINVAL, "--system is not UTF-8 text");
    if (st == TY_OK && c->terminal) read_terminal(c);
    if (st == TY_OK && !c->terminal) read_lines(c);
    json_decref(c->messages);
    local_pictures_clear(&c->pictures);
    local_destroy(&c->pipeline);
    return st;
}

static chat_options opt;
static const ty_option table[] = {
    TY_OPT_STR("pipeline", "TYTO_PIPELINE", opt.pipeline, NULL, "DIR", "made by `tyto import`"),
    TY_OPT_STR("adapter", NULL, opt.adapter, NULL, "DIR", "a LoRA adapter (PEFT's layout) to use"),
    TY_OPT_STR("system", NULL, opt.system, NULL, "TEXT", "system message (replaces the preamble)"),
    ASK_OPTIONS(opt.ask),
    TY_OPT_INT("threads", "TYTO_THREADS", opt.threads, 0, 0, 1024, "0 = one per core"),
    TY_OPT_STR("compute", "TYTO_COMPUTE", opt.compute, "auto", "auto|f32|bf16|int8", "arithmetic"),
    TY_OPT_STR("kv", "TYTO_KV", opt.kv, "f32", "f32|f16", "KV cache"),
    TY_OPT_INT("context", "TYTO_CONTEXT", opt.context, 0, 0, 1 << 24, "0 = the model's own"),
    TY_OPT_END};

int cmd_chat(int argc, char **argv) {
    ty_options_next next =
        ty_options_parse(table, "tyto chat --pipeline DIR",
                         "A conversation in the terminal.  /image FILE shows a picture, /help the "
                         "other commands.",
                         argc, argv, NULL);
    if (next != TY_OPTIONS_GO) return next == TY_OPTIONS_DONE ? 0 : 2;
    ty_err err = {0};
    const char *fault = NULL;
    if (!opt.pipeline)
        fault = "--pipeline DIR is missing (`tyto import` makes one)";
    else if (ty_compute_parse(opt.compute) < 0)
        fault = "--compute is auto, f32, bf16 or int8";
    else if (strcmp(opt.kv, "f32") != 0 && strcmp(opt.kv, "f16") != 0)
        fault = "--kv is f32 or f16";
    else if (ty_cpu_check(&err) != TY_OK)
        fault = err.text;
    if (fault) {
        fprintf(stderr, "tyto chat: %s\n", fault);
        return 2;
    }
    struct sigaction sa = {.sa_handler = on_interrupt};
    sigemptyset(&sa.sa_mask);
    (void)sigaction(SIGINT, &sa, NULL);
    chat c = {.opt = &opt, .table = table, .terminal = isatty(0) && isatty(1)};
    ty_status st = converse(&c, &err);
    if (st != TY_OK) fprintf(stderr, "tyto chat: %s\n", err.text);
    return st == TY_OK ? 0 : 1;
}
