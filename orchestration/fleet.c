/* fleet.c - see fleet.h. */
#include "orchestration/fleet.h"

#include "common/base/log.h"
#include "common/model/adapter.h"

#include <errno.h>
#include <libgen.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PHASE_GATEWAY, PHASE_STAGE, PHASE_BROKER, PHASE_STORE };

static ty_status parse_address(fleet_address *a, const char *text, ty_err *err) {
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    long port = colon ? strtol(colon + 1, &end, 10) : 0;
    size_t n = colon ? (size_t)(colon - text) : 0;
    if (!colon || n == 0 || n >= sizeof(a->host) || end == colon + 1 || *end || port < 1 ||
        port > 65535)
        return ty_fail(err, TY_EINVAL, "--listen \"%s\" is not HOST:PORT, as in 127.0.0.1:8080",
                       text);
    bool brackets = text[0] == '[' && text[n - 1] == ']';
    snprintf(a->host, sizeof(a->host), "%.*s", (int)(brackets ? n - 2 : n), text + brackets);
    a->port = (int)port;
    return TY_OK;
}

ty_status fleet_parse_listen(fleet *f, const char *listen, ty_err *err) {
    char list[FLEET_GATEWAYS_MAX * 64], *save = NULL;
    ty_status st = TY_OK;
    f->n_address = 0;
    if (snprintf(list, sizeof(list), "%s", listen) >= (int)sizeof(list))
        return ty_fail(err, TY_EINVAL, "--listen is too long");
    for (char *p = strtok_r(list, ",", &save); p && st == TY_OK; p = strtok_r(NULL, ",", &save)) {
        if (f->n_address == FLEET_GATEWAYS_MAX)
            return ty_fail(err, TY_EINVAL, "--listen names more than %d addresses", f->n_address);
        st = parse_address(&f->address[f->n_address++], p, err);
    }
    if (st == TY_OK && f->n_address == 0) st = parse_address(&f->address[0], listen, err);
    return st;
}

ty_status fleet_bin_dir(char out[STATE_PATH], ty_err *err) {
    char exe[STATE_PATH];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    if (n <= 0) return ty_fail(err, TY_EIO, "/proc/self/exe: %s", strerror(errno));
    exe[n] = '\0';
    snprintf(out, STATE_PATH, "%s", dirname(exe));
    return TY_OK;
}

/* The index of the pipeline that the option is for. */
static ty_status adapter_pipeline(const fleet *f, const ty_adapter_option *o, int *index,
                                  ty_err *err) {
    for (*index = 0; *index < f->n_pipeline; ++*index)
        if (ty_adapter_option_is_for(o, f->pipeline[*index].name, f->n_pipeline)) return TY_OK;
    return *o->model
               ? ty_fail(err, TY_ENOTFOUND, "--adapter %s+%s: no pipeline is called %s", o->model,
                         o->name, o->model)
               : ty_fail(err, TY_EINVAL,
                         "--adapter %s: there are several pipelines; say which as in %s+%s=DIR",
                         o->name, f->pipeline[0].name, o->name);
}

/* A run that trained more than its adapter left that beside it. */
static void warn_of_more(const char *dir) {
    char path[STATE_PATH];
    int n = snprintf(path, sizeof(path), "%s/../trained.safetensors", dir);
    if (n > 0 && n < (int)sizeof(path) && access(path, F_OK) == 0)
        ty_warn("%s is not all that its run trained: %s is served without; a merged pipeline has "
                "both (tyto-train --pipeline)",
                dir, path);
}

static ty_status check_adapters(const fleet *f, ty_err *err) {
    ty_status st = TY_OK;
    for (int i = 0; i < f->n_adapter && st == TY_OK; i++) {
        ty_adapter_option o;
        ty_adapter *a = NULL;
        int at = 0;
        st = ty_adapter_option_parse(&o, f->adapter[i], err);
        if (st == TY_OK) st = adapter_pipeline(f, &o, &at, err);
        if (st == TY_OK) st = ty_adapter_open(&a, o.dir, err);
        if (st == TY_OK) warn_of_more(o.dir);
        ty_adapter_close(&a);
    }
    return st;
}

ty_status fleet_load(fleet *f, ty_err *err) {
    ty_status st = fleet_bin_dir(f->bin_dir, err);
    if (st != TY_OK) return st;
    f->pipeline = calloc((size_t)f->n_pipeline, sizeof(*f->pipeline));
    if (!f->pipeline) return ty_fail(err, TY_ENOMEM, "out of memory for the pipelines");
    for (int i = 0; i < f->n_pipeline; i++) {
        st = ty_pipeline_load(&f->pipeline[i], f->pipeline_dir[i], err);
        if (st != TY_OK) return st;
        for (int k = 0; k < i; k++)
            if (strcmp(f->pipeline[k].name, f->pipeline[i].name) == 0)
                return ty_fail(err, TY_EEXIST,
                               "%s and %s are both named \"%s\"; the name is the directory's, and "
                               "must be unique: rename one",
                               f->pipeline_dir[k], f->pipeline_dir[i], f->pipeline[i].name);
    }
    return check_adapters(f, err);
}

void fleet_adapter_model(const fleet *f, int i, char *out, size_t size) {
    ty_adapter_option o;
    int at = 0;
    *out = '\0';
    if (ty_adapter_option_parse(&o, f->adapter[i], NULL) == TY_OK &&
        adapter_pipeline(f, &o, &at, NULL) == TY_OK)
        snprintf(out, size, "%s+%s", f->pipeline[at].name, o.name);
}

void fleet_clear(fleet *f) {
    free(f->pipeline);
    f->pipeline = NULL;
}

/* ---- addresses ---- */

static ty_status try_bind(const char *host, int port, int *bound, ty_err *err) {
    char service[16];
    struct addrinfo hint = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    snprintf(service, sizeof(service), "%d", port);
    int rc = getaddrinfo(host, service, &hint, &list);
    if (rc != 0) return ty_fail(err, TY_EINVAL, "--listen host %s: %s", host, gai_strerror(rc));
    int one = 1, why = 0;
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 &&
              bind(fd, list->ai_addr, list->ai_addrlen) == 0 && listen(fd, 1) == 0;
    if (!ok) why = errno;
    struct sockaddr_in in = {0};
    socklen_t size = sizeof(in);
    if (ok && bound && getsockname(fd, (struct sockaddr *)&in, &size) == 0)
        *bound = ntohs(in.sin_port);
    if (fd >= 0) close(fd);
    freeaddrinfo(list);
    if (ok) return TY_OK;
    if (why == EADDRINUSE)
        return ty_fail(err, TY_EIO,
                       "port %d on %s is taken by another program; choose another with --listen "
                       "%s:%d (make run: PORT=%d)",
                       port, host, host, port < 65000 ? port + 1 : 8080,
                       port < 65000 ? port + 1 : 8080);
    return ty_fail(err, TY_EIO, "cannot listen on %s:%d: %s", host, port, strerror(why));
}

ty_status fleet_check_ports(const fleet *f, ty_err *err) {
    ty_status st = TY_OK;
    for (int i = 0; i < f->n_address && st == TY_OK; i++)
        st = try_bind(f->address[i].host, f->address[i].port, NULL, err);
    return st;
}

static ty_status choose_tcp(char out[STATE_ENDPOINT], ty_err *err) {
    int port = 0;
    ty_status st = try_bind("127.0.0.1", 0, &port, err);
    snprintf(out, STATE_ENDPOINT, "tcp://127.0.0.1:%d", port);
    return st;
}

static ty_status choose_ipc(char out[STATE_ENDPOINT], const char *run_dir, const char *side, int i,
                            ty_err *err) {
    int n = snprintf(out, STATE_ENDPOINT, "ipc://%s/%s.%d.sock", run_dir, side, i);
    if (n < 0 || n >= STATE_ENDPOINT)
        return ty_fail(err, TY_EINVAL, "%s: the path is too long for a socket", run_dir);
    return TY_OK;
}

ty_status fleet_choose_endpoints(fleet *f, const char *run_dir, ty_err *err) {
    bool tcp = strcmp(f->transport, "tcp") == 0;
    ty_status st = TY_OK;
    for (int i = 0; i < f->brokers && st == TY_OK; i++) {
        st = tcp ? choose_tcp(f->workers_endpoint[i], err)
                 : choose_ipc(f->workers_endpoint[i], run_dir, "workers", i, err);
        if (st != TY_OK) return st;
        st = tcp ? choose_tcp(f->gateways_endpoint[i], err)
                 : choose_ipc(f->gateways_endpoint[i], run_dir, "gateways", i, err);
    }
    return st;
}

int fleet_sharers(const fleet *f, int address) {
    return f->gateways / f->n_address + (address < f->gateways % f->n_address);
}

void fleet_url(const fleet *f, int address, char *out, size_t size) {
    const char *host = f->address[address].host;
    if (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "*") == 0) host = "127.0.0.1";
    if (strcmp(host, "::") == 0) host = "::1";
    bool v6 = strchr(host, ':') != NULL;
    snprintf(out, size, "http://%s%s%s:%d", v6 ? "[" : "", host, v6 ? "]" : "",
             f->address[address].port);
}

/* ---- processes ---- */

static ty_status start_child(const fleet *f, supervisor_child *c, const char *stage, int index,
                             ty_err *err) {
    char program[STATE_PATH + 64];
    *c = (supervisor_child){.stop_phase = PHASE_STAGE};
    snprintf(c->name, sizeof(c->name), "%s.%d", stage, index);
    snprintf(c->stage, sizeof(c->stage), "%s", stage);
    snprintf(program, sizeof(program), "%s/tyto-%s", f->bin_dir, stage);
    if (access(program, X_OK) != 0)
        return ty_fail(err, TY_ENOTFOUND,
                       "%s: %s; the programs lie beside `tyto`: build them with "
                       "`make`",
                       program, strerror(errno));
    return supervisor_arg(c, program, err);
}

/* --flag value, when there is a value. */
static ty_status add_option(supervisor_child *c, const char *flag, const char *value, ty_err *err) {
    if (!value || !*value) return TY_OK;
    ty_status st = supervisor_arg(c, flag, err);
    return st == TY_OK ? supervisor_arg(c, value, err) : st;
}

/* --connect with the endpoints of all brokers. */
static ty_status add_connect(const fleet *f, supervisor_child *c,
                             const char endpoint[][STATE_ENDPOINT], ty_err *err) {
    char list[FLEET_BROKERS_MAX * (STATE_ENDPOINT + 1)] = "";
    for (int i = 0; i < f->brokers; i++) {
        size_t n = strlen(list);
        snprintf(list + n, sizeof(list) - n, "%s%s", i ? "," : "", endpoint[i]);
    }
    return add_option(c, "--connect", list, err);
}

static ty_status add_broker(const fleet *f, int index, supervisor *s, ty_err *err) {
    supervisor_child c;
    ty_status st = start_child(f, &c, "broker", index, err);
    c.stop_phase = PHASE_BROKER;
    if (st == TY_OK) st = add_option(&c, "--workers", f->workers_endpoint[index], err);
    if (st == TY_OK) st = add_option(&c, "--gateways", f->gateways_endpoint[index], err);
    if (st == TY_OK) st = add_option(&c, "--log-level", f->log_level, err);
    if (st == TY_OK) st = supervisor_add(s, &c, err);
    supervisor_child_clear(&c);
    return st;
}

static ty_status add_gateway(const fleet *f, int index, supervisor *s, ty_err *err) {
    supervisor_child c;
    char listen[300];
    int at = index % f->n_address;
    const fleet_address *a = &f->address[at];
    bool v6 = strchr(a->host, ':') != NULL;
    snprintf(listen, sizeof(listen), "%s%s%s:%d", v6 ? "[" : "", a->host, v6 ? "]" : "", a->port);
    ty_status st = start_child(f, &c, "gateway", index, err);
    c.stop_phase = PHASE_GATEWAY;
    if (st == TY_OK) st = add_connect(f, &c, f->gateways_endpoint, err);
    if (st == TY_OK) st = add_option(&c, "--name", c.name, err);
    if (st == TY_OK) st = add_option(&c, "--listen", listen, err);
    if (st == TY_OK && fleet_sharers(f, at) > 1) st = supervisor_arg(&c, "--share-port", err);
    for (int i = 0; i < f->n_pipeline && st == TY_OK; i++)
        st = add_option(&c, "--pipeline", f->pipeline_dir[i], err);
    for (int i = 0; i < f->n_adapter && st == TY_OK; i++)
        st = add_option(&c, "--adapter", f->adapter[i], err);
    if (st == TY_OK) st = add_option(&c, "--timeout-s", f->timeout, err);
    if (st == TY_OK) st = add_option(&c, "--drain-s", f->drain, err);
    if (st == TY_OK) st = add_option(&c, "--api-key-file", f->api_key_file, err);
    if (st == TY_OK) st = add_option(&c, "--log-level", f->log_level, err);
    if (st == TY_OK) st = supervisor_add(s, &c, err);
    supervisor_child_clear(&c);
    return st;
}

/* What each stage takes from the run options, beside what all workers take. */
static ty_status add_run_options(const fleet *f, ty_stage_kind k, supervisor_child *c,
                                 ty_err *err) {
    ty_status st = TY_OK;
    if (k != TY_STAGE_PREPROCESS) {
        st = add_option(c, "--threads", f->threads, err);
        if (st == TY_OK) st = add_option(c, "--compute", f->compute, err);
    }
    if (k == TY_STAGE_DECODER) {
        if (st == TY_OK) st = add_option(c, "--kv", f->kv, err);
        if (st == TY_OK) st = add_option(c, "--context", f->context, err);
        if (st == TY_OK) st = add_option(c, "--kv-mib", f->kv_mib, err);
        if (st == TY_OK) st = add_option(c, "--batch", f->max_rows, err);
    } else if (st == TY_OK) {
        st = add_option(c, "--batch", f->batch, err);
    }
    return st;
}

static bool same_stage(const ty_pipeline *a, const ty_pipeline *b, ty_stage_kind k) {
    return a->path[k][0] && b->path[k][0] && strcmp(a->model_id[k], b->model_id[k]) == 0;
}

/* Has an earlier pipeline the same file?  Then its workers serve this one too: queues are by identity. */
static bool is_served(const fleet *f, int p, ty_stage_kind k) {
    for (int i = 0; i < p; i++)
        if (same_stage(&f->pipeline[i], &f->pipeline[p], k)) return true;
    return false;
}

/* "a,b": the pipelines that a worker of pipeline p serves, for the status. */
static void name_pipelines(const fleet *f, int p, ty_stage_kind k, char *out, size_t size) {
    size_t at = 0;
    for (int i = p; i < f->n_pipeline && at < size; i++)
        if (same_stage(&f->pipeline[p], &f->pipeline[i], k))
            at += (size_t)snprintf(out + at, size - at, "%s%s", at ? "," : "", f->pipeline[i].name);
}

/* The adapters of all pipelines that have pipeline p's decoder. */
static ty_status add_adapters(const fleet *f, int p, supervisor_child *c, ty_err *err) {
    ty_status st = TY_OK;
    for (int i = 0; i < f->n_adapter && st == TY_OK; i++) {
        ty_adapter_option o;
        int at = 0;
        st = ty_adapter_option_parse(&o, f->adapter[i], err);
        if (st == TY_OK) st = adapter_pipeline(f, &o, &at, err);
        if (st != TY_OK || !same_stage(&f->pipeline[p], &f->pipeline[at], TY_STAGE_DECODER))
            continue;
        st = add_option(c, "--adapter", f->adapter[i], err);
    }
    return st;
}

static ty_status add_worker(const fleet *f, int at, ty_stage_kind k, int index, supervisor *s,
                            ty_err *err) {
    supervisor_child c;
    const ty_pipeline *p = &f->pipeline[at];
    ty_status st = start_child(f, &c, ty_stage_name(k), index, err);
    name_pipelines(f, at, k, c.model, sizeof(c.model));
    snprintf(c.model_id, sizeof(c.model_id), "%s", p->model_id[k]);
    if (st == TY_OK) st = add_option(&c, "--model", p->path[k], err);
    if (st == TY_OK) st = add_connect(f, &c, f->workers_endpoint, err);
    if (st == TY_OK) st = add_option(&c, "--worker", c.name, err);
    if (st == TY_OK) st = add_option(&c, "--pipeline", p->name, err);
    if (st == TY_OK) st = add_option(&c, "--drain-s", f->drain, err);
    if (st == TY_OK) st = add_run_options(f, k, &c, err);
    if (st == TY_OK && k == TY_STAGE_DECODER) st = add_adapters(f, at, &c, err);
    if (st == TY_OK) st = add_option(&c, "--log-level", f->log_level, err);
    if (st == TY_OK) st = supervisor_add(s, &c, err);
    supervisor_child_clear(&c);
    return st;
}

static ty_status add_stage(const fleet *f, ty_stage_kind k, supervisor *s, ty_err *err) {
    ty_status st = TY_OK;
    int index = 0;
    for (int p = 0; p < f->n_pipeline; p++) {
        if (!f->pipeline[p].path[k][0]) continue; /* a text-only pipeline has no vision */
        if (is_served(f, p, k)) continue;
        for (int i = 0; i < f->workers[k] && st == TY_OK; i++)
            st = add_worker(f, p, k, index++, s, err);
    }
    return st;
}

ty_status fleet_add(const fleet *f, supervisor *s, ty_err *err) {
    ty_status st = stores_add(&f->stores, s, PHASE_STORE, err);
    for (int i = 0; i < f->brokers && st == TY_OK; i++) st = add_broker(f, i, s, err);
    for (int k = 0; k < TY_STAGE_COUNT && st == TY_OK; k++) st = add_stage(f, k, s, err);
    for (int i = 0; i < f->gateways && st == TY_OK; i++) st = add_gateway(f, i, s, err);
    return st;
}
