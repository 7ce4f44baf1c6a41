/*
 * up.c - `tyto up`: the whole service on this machine.  Checks what can be checked first (pipelines,
 * programs, ports, the state directory), then supervises broker, stages and gateways until it is told
 * to stop.
 */
#include "orchestration/commands.h"
#include "orchestration/fleet.h"
#include "orchestration/readiness.h"

#include "common/base/log.h"
#include "common/base/options.h"
#include "common/wire/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    ty_option_list pipeline, adapter;
    const char *listen, *state, *transport, *threads, *compute, *kv, *context, *kv_mib, *batch,
        *max_rows;
    const char *api_key_file, *log_level, *on_ready, *timeout;
    const char *redis_url, *cache_url, *redis_server, *keys;
    int redis_mib, cache_mib;
    int workers[TY_STAGE_COUNT], gateways, brokers, start_timeout, stop_timeout;
    bool detach, temporary;
} up_options;

typedef struct {
    fleet f;
    state_dir state;
    const up_options *opt;
    int ready_fd; /* --detach: the waiting parent's pipe; -1 */
} up;

static bool all_ready(void *ctx, char *why) {
    const up *u = ctx;
    return fleet_ready(&u->f, why);
}

/* ---- what it says ---- */

static void print_example(const char *url, const char *model, bool with_key) {
    printf("\nask it:\n  curl %s/v1/chat/completions -H 'Content-Type: application/json'%s \\\n"
           "    -d '{\"model\": \"%s\", \"max_tokens\": 32, \"messages\": [{\"role\": \"user\", "
           "\"content\": \"Hello\"}]}'\n"
           "or about a picture:\n"
           "  tyto ask --url %s --image FILE.jpg --prompt \"What is in this picture?\"\n",
           url, with_key ? " -H \"Authorization: Bearer $KEY\"" : "", model, url);
}

/* Where conversations are, when they are ours to keep; /tmp and /run do not outlive a reboot. */
static void print_data(const up *u) {
    const char *dir = u->state.dir;
    if (!u->f.stores.own[STORE_STATE] || u->opt->temporary) return;
    bool passing = strncmp(dir, "/tmp/", 5) == 0 || strncmp(dir, "/run/", 5) == 0;
    printf("conversations: %s/data%s\n", dir,
           passing ? "  (gone after a reboot: --state DIR on a disk keeps them)" : "");
}

static void print_ready(const up *u) {
    char url[320];
    for (int i = 0; i < u->f.n_address; i++) {
        fleet_url(&u->f, i, url, sizeof(url));
        printf("ready: %s/v1  models:", url);
        for (int p = 0; p < u->f.n_pipeline; p++) printf(" %s", u->f.pipeline[p].name);
        for (int a = 0; a < u->f.n_adapter; a++) {
            char name[sizeof(((ty_pipeline *)NULL)->name)];
            fleet_adapter_model(&u->f, a, name, sizeof(name));
            printf(" %s", name);
        }
        putchar('\n');
    }
    printf("state: %s  (tyto status --state %s; logs in %s/log)\n", u->state.dir, u->state.dir,
           u->state.dir);
    print_data(u);
    fleet_url(&u->f, 0, url, sizeof(url));
    print_example(url, u->f.pipeline[0].name, u->opt->api_key_file != NULL);
    if (!u->opt->detach) printf("\nCtrl-C stops it.\n");
    fflush(stdout);
}

/* From here on nobody reads our terminal: the log goes on in STATE/log/tyto.log. */
static void leave_terminal(up *u) {
    char path[STATE_PATH];
    int in = open("/dev/null", O_RDONLY | O_CLOEXEC), log = -1;
    if (state_path(u->state.dir, "log/tyto.log", path))
        log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (in >= 0) (void)dup2(in, 0);
    if (log >= 0) {
        (void)dup2(log, 1);
        (void)dup2(log, 2);
        close(log);
    }
    if (in >= 0) close(in);
    ty_log_init("tyto", TY_LOG_INFO);
}

static void on_ready(void *ctx) {
    up *u = ctx;
    print_ready(u);
    if (u->ready_fd < 0) return;
    leave_terminal(u);
    if (write(u->ready_fd, "K", 1) != 1) ty_warn("the starting process is gone");
    close(u->ready_fd);
    u->ready_fd = -1;
}

/* ---- running ---- */

static ty_status supervise(up *u, ty_err *err) {
    supervisor_options so = {.state = &u->state,
                             .ignore_hangup = u->opt->detach,
                             .stop_ms = u->opt->stop_timeout * 1000,
                             .start_ms = u->opt->start_timeout * 1000,
                             .probe = all_ready,
                             .on_ready = on_ready,
                             .ctx = u,
                             .command = u->opt->on_ready};
    supervisor *s = NULL;
    ty_status st = supervisor_create(&s, &so, err);
    if (st == TY_OK) st = fleet_add(&u->f, s, err);
    if (st == TY_OK) st = supervisor_run(s, err);
    supervisor_destroy(&s);
    return st;
}

static void take_options(fleet *f, const up_options *o) {
    f->n_pipeline = o->pipeline.n;
    for (int i = 0; i < o->pipeline.n; i++) f->pipeline_dir[i] = o->pipeline.item[i];
    f->adapter = o->adapter.item;
    f->n_adapter = o->adapter.n;
    memcpy(f->workers, o->workers, sizeof(f->workers));
    f->gateways = o->gateways;
    f->brokers = o->brokers;
    f->stores = (stores){.given = {o->redis_url, o->cache_url},
                         .mib = {o->redis_mib, o->cache_mib},
                         .server = o->redis_server};
    f->transport = o->transport;
    f->threads = o->threads;
    f->compute = o->compute;
    f->kv = o->kv;
    f->context = o->context;
    f->kv_mib = o->kv_mib;
    f->batch = o->batch;
    f->max_rows = o->max_rows;
    f->api_key_file = o->api_key_file;
    f->log_level = o->log_level;
    f->timeout = o->timeout;
    /* a little less, so that they end by themselves before the supervisor ends them */
    snprintf(f->drain, sizeof(f->drain), "%d", o->stop_timeout > 1 ? o->stop_timeout - 1 : 1);
}

static ty_status choose_state(const up_options *o, char dir[STATE_PATH], ty_err *err) {
    if (!o->temporary) return state_resolve(o->state, dir, err);
    snprintf(dir, STATE_PATH, "/tmp/tyto-XXXXXX");
    return mkdtemp(dir) ? TY_OK : ty_fail(err, TY_EIO, "mkdtemp %s: %s", dir, strerror(errno));
}

/* On tcp ports every user of the machine could knock: all that we start shows keys, ours unless others are named. */
static ty_status prepare_keys(const up *u, ty_err *err) {
    char data[STATE_PATH], made[STATE_PATH];
    const char *keys = u->opt->keys;
    if (strcmp(u->opt->transport, "tcp") != 0) return TY_OK;
    if (!keys) {
        if (!state_path(u->state.dir, "data", data) || !state_path(data, "keys", made))
            return ty_fail(err, TY_EINVAL, "%s: the path is too long", u->state.dir);
        ty_status st = state_private_dir(data, err);
        if (st == TY_OK && access(made, F_OK) != 0) st = ty_keys_make(made, err);
        if (st != TY_OK) return st;
        keys = made;
    }
    if (setenv("TYTO_KEYS", keys, 1) != 0)
        return ty_fail(err, TY_ENOMEM, "TYTO_KEYS: %s", strerror(errno));
    return TY_OK;
}

static ty_status run_service(up *u, ty_err *err) {
    char dir[STATE_PATH] = "";
    ty_status st = fleet_load(&u->f, err);
    if (st == TY_OK) st = choose_state(u->opt, dir, err);
    if (st == TY_OK) st = state_acquire(&u->state, dir, err);
    if (st == TY_OK) st = fleet_check_ports(&u->f, err);
    if (st == TY_OK) st = fleet_choose_endpoints(&u->f, u->state.run, err);
    if (st == TY_OK) st = stores_prepare(&u->f.stores, &u->state, err);
    if (st == TY_OK) st = stores_export(&u->f.stores, err);
    if (st == TY_OK) st = prepare_keys(u, err);
    if (st == TY_OK) st = supervise(u, err);
    state_release(&u->state);
    /* after a failure the logs stay: its message names them */
    if (*dir && u->opt->temporary) state_remove(dir, st != TY_OK);
    fleet_clear(&u->f);
    return st;
}

static int run_and_report(up *u) {
    ty_err err = {0};
    ty_status st = run_service(u, &err);
    if (st != TY_OK) fprintf(stderr, "tyto up: %s\n", err.text);
    return st == TY_OK ? 0 : 1;
}

/* --detach: the child serves; we wait until it is ready (a byte) or gone (end of file). */
static int detach(up *u) {
    int ends[2], status;
    char byte;
    if (pipe2(ends, O_CLOEXEC) != 0) {
        fprintf(stderr, "tyto up: pipe: %s\n", strerror(errno));
        return 1;
    }
    pid_t pid = fork();
    if (pid < 0) {
        fprintf(stderr, "tyto up: fork: %s\n", strerror(errno));
        return 1;
    }
    if (pid == 0) {
        close(ends[0]);
        setsid();
        u->ready_fd = ends[1];
        return run_and_report(u);
    }
    close(ends[1]);
    ssize_t n;
    do n = read(ends[0], &byte, 1);
    while (n < 0 && errno == EINTR);
    close(ends[0]);
    if (n == 1) return 0;
    if (waitpid(pid, &status, 0) == pid && WIFEXITED(status)) return WEXITSTATUS(status);
    return 1;
}

static up_options opt;
static const ty_option table[] = {
    TY_OPT_LIST_VAR(
        "pipeline", "TYTO_PIPELINES", opt.pipeline, "DIR",
        "a pipeline made by `tyto import`; may repeat (the same stage files share processes)"),
    TY_OPT_LIST_VAR("adapter", "TYTO_ADAPTERS", opt.adapter, "[MODEL+]NAME=DIR",
                    "a LoRA adapter (PEFT's layout) that requests may ask for, as model "
                    "MODEL+NAME; MODEL, a pipeline's name, may be left out when there is one; "
                    "may repeat"),
    TY_OPT_STR("listen", "TYTO_LISTEN", opt.listen, "127.0.0.1:8080", "HOST:PORT[,...]",
               "address of the API; with several, each gateway takes its own in turn"),
    TY_OPT_STR("state", "TYTO_STATE", opt.state, NULL, "DIR",
               "sockets, status, conversations and logs [$XDG_RUNTIME_DIR/tyto or /tmp/tyto-UID]"),
    TY_OPT_INT("preprocess", NULL, opt.workers[TY_STAGE_PREPROCESS], 1, 1, 64, "processes of it"),
    TY_OPT_INT("vit", NULL, opt.workers[TY_STAGE_VIT], 1, 1, 64, "processes of it"),
    TY_OPT_INT("abstractor", NULL, opt.workers[TY_STAGE_ABSTRACTOR], 1, 1, 64, "processes of it"),
    TY_OPT_INT("decoder", NULL, opt.workers[TY_STAGE_DECODER], 1, 1, 64, "processes of it"),
    TY_OPT_INT("gateway", NULL, opt.gateways, 1, 1, FLEET_GATEWAYS_MAX,
               "gateways; more than there are addresses share them"),
    TY_OPT_INT("broker", NULL, opt.brokers, 1, 1, FLEET_BROKERS_MAX,
               "brokers; gateways and stages connect to all"),
    TY_OPT_STR("redis-url", "TYTO_REDIS_URL", opt.redis_url, NULL, "URL",
               "Redis for conversations: redis://[:PASSWORD@]HOST:PORT[/DB], unix:///PATH, or none "
               "[a private server, data under the state directory]"),
    TY_OPT_STR("cache-url", "TYTO_CACHE_URL", opt.cache_url, NULL, "URL",
               "Redis for what the vision stages computed, or none [a private server]"),
    TY_OPT_INT("redis-mib", "TYTO_REDIS_MIB", opt.redis_mib, 1024, 0, 1 << 20,
               "memory of the private server for conversations, MiB; full = refused; 0 = no limit"),
    TY_OPT_INT("cache-mib", "TYTO_CACHE_MIB", opt.cache_mib, 512, 1, 1 << 20,
               "memory of the private cache, MiB; full = the least used goes"),
    TY_OPT_STR("redis-server", "TYTO_REDIS_SERVER", opt.redis_server, "redis-server", "PROGRAM",
               "the program of the private servers"),
    TY_OPT_STR("transport", "TYTO_TRANSPORT", opt.transport, "ipc", "ipc|tcp",
               "between the processes: Unix sockets or loopback TCP"),
    TY_OPT_STR("keys", "TYTO_KEYS", opt.keys, NULL, "DIR",
               "keys for tcp (`tyto keys` makes them) [its own, under the state directory]"),
    TY_OPT_STR("threads", NULL, opt.threads, NULL, "N",
               "compute threads of each stage (default: one per core; the stages take turns)"),
    TY_OPT_STR("compute", NULL, opt.compute, NULL, "f32|bf16|int8", "arithmetic of the stages"),
    TY_OPT_STR("kv", NULL, opt.kv, NULL, "f32|f16", "the decoder's KV cache"),
    TY_OPT_STR("context", NULL, opt.context, NULL, "N", "positions of a conversation"),
    TY_OPT_STR("kv-mib", NULL, opt.kv_mib, NULL, "N", "memory of each decoder's KV cache"),
    TY_OPT_STR("batch", NULL, opt.batch, NULL, "N",
               "most pictures that a vision stage takes at once"),
    TY_OPT_STR("max-rows", NULL, opt.max_rows, NULL, "N", "most sequences in a decoder's batch"),
    TY_OPT_STR("timeout", NULL, opt.timeout, NULL, "N", "seconds that a request may take"),
    TY_OPT_STR("api-key-file", "TYTO_API_KEY_FILE", opt.api_key_file, NULL, "FILE",
               "keys that clients must show, one a line"),
    TY_OPT_STR("log-level", "TYTO_LOG_LEVEL", opt.log_level, NULL, "debug|info|warn|error",
               "of all processes"),
    TY_OPT_INT("start-timeout", NULL, opt.start_timeout, 600, 1, 86400,
               "seconds the start may take"),
    TY_OPT_INT("stop-timeout", NULL, opt.stop_timeout, 10, 1, 86400,
               "seconds that requests in flight get when it stops, for gateways and for stages"),
    TY_OPT_STR("on-ready", NULL, opt.on_ready, NULL, "COMMAND",
               "shell command run once when all is ready; its failure stops the service"),
    TY_OPT_FLAG("temporary", NULL, opt.temporary,
                "keep the state in a new directory under /tmp and remove it in the end, logs too"),
    TY_OPT_FLAG("detach", NULL, opt.detach, "serve in the background; return when all is ready"),
    TY_OPT_END};

static int usage_error(const char *text) {
    fprintf(stderr, "tyto up: %s\n", text);
    return 2;
}

int cmd_up(int argc, char **argv) {
    ty_options_next next =
        ty_options_parse(table, "tyto up --pipeline DIR [--pipeline DIR2] [options]",
                         "Runs the whole service: stores, broker, stages, gateway.  In the "
                         "foreground until SIGTERM or "
                         "Ctrl-C;\nwhat dies is started again.",
                         argc, argv, NULL);
    if (next != TY_OPTIONS_GO) return next == TY_OPTIONS_DONE ? 0 : 2;
    up u = {.opt = &opt, .ready_fd = -1, .state = {.lock_fd = -1}};
    ty_err err = {0};
    if (opt.pipeline.n == 0)
        return usage_error("--pipeline DIR is missing (`tyto import` makes one)");
    if (opt.pipeline.n > FLEET_PIPELINES_MAX) return usage_error("more than 16 pipelines");
    if (strcmp(opt.transport, "ipc") != 0 && strcmp(opt.transport, "tcp") != 0)
        return usage_error("--transport is ipc or tcp");
    if (opt.temporary && opt.state)
        return usage_error("--temporary and --state exclude each other");
    if (fleet_parse_listen(&u.f, opt.listen, &err) != TY_OK) return usage_error(err.text);
    if (u.f.n_address > opt.gateways)
        return usage_error("--listen names more addresses than there are gateways: give --gateway");
    take_options(&u.f, &opt);
    (void)unsetenv("TYTO_ADAPTERS"); /* each process gets those that are for it */
    signal(SIGPIPE, SIG_IGN);        /* hiredis writes to servers that may be gone */
    ty_log_init("tyto", TY_LOG_WARN);
    return opt.detach ? detach(&u) : run_and_report(&u);
}
