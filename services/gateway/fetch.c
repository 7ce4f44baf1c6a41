/*
 * fetch.c - see fetch.h.
 *
 * The loop's thread makes jobs and puts them into `fresh`; the worker thread takes them, runs them, and puts them into
 * `finished` with a byte in an eventfd, on which the loop's thread calls their functions.  A job belongs to whoever's list it
 * is in; `forgotten` alone is touched by both meanwhile.
 */
#include "services/gateway/fetch.h"

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/options.h"
#include "services/gateway/address.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REDIRECTS_MAX = 3, CONNECTIONS_MAX = 32, HOSTS_MAX_BYTES = 4096, POLL_MS = 1000 };

struct fetch_job {
    fetch *owner;
    fetch_done_fn done;
    void *ctx;
    atomic_bool forgotten;
    fetch_job *next;
    /* the worker's */
    CURL *easy;
    CURLU *url;
    int redirects;
    int64_t deadline_us;
    bool private_address; /* one was refused */
    ty_buf body;
    ty_status st;
    ty_err err;
};

struct fetch {
    fetch_options opt;
    char hosts[HOSTS_MAX_BYTES];
    CURLM *multi;
    pthread_t thread;
    bool started;
    atomic_bool stop;
    pthread_mutex_t lock;
    fetch_job *fresh, *finished; /* under the lock */
    fetch_job *running;          /* the worker's */
    int wake;                    /* eventfd */
    struct event *event;
};

/* ---- what may be asked ---- */

bool fetch_is_address(const char *url, size_t len) {
    return (len >= 7 && strncasecmp(url, "http://", 7) == 0) ||
           (len >= 8 && strncasecmp(url, "https://", 8) == 0);
}

/* One entry of the list against a host and a port. */
static bool fits(const char *entry, size_t len, const char *host, long port, bool own_port) {
    /* "[::1]:80": the port's colon is behind the bracket */
    const char *bracket = memchr(entry, ']', len);
    const char *from = bracket ? bracket : entry;
    const char *colon = memchr(from, ':', len - (size_t)(from - entry));
    size_t n = colon ? (size_t)(colon - entry) : len;
    if (colon ? strtol(colon + 1, NULL, 10) != port : !own_port) return false;
    size_t m = strlen(host);
    if (n == 1 && *entry == '*') return true;
    if (n > 2 && entry[0] == '*' &&
        entry[1] == '.') /* ".name" at the end, and something before it */
        return m > n - 1 && strncasecmp(host + m - (n - 1), entry + 1, n - 1) == 0;
    return n == m && strncasecmp(entry, host, n) == 0;
}

static bool is_listed(const fetch *f, const char *host, long port, bool own_port) {
    for (const char *p = f->hosts; *p; p += strspn(p, ", ")) {
        size_t n = strcspn(p, ", ");
        if (n && fits(p, n, host, port, own_port)) return true;
        p += n;
    }
    return false;
}

static ty_status check_url(const fetch *f, CURLU *u, ty_err *err) {
    char *scheme = NULL, *host = NULL, *port = NULL;
    ty_status st = TY_OK;
    if (curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
        curl_url_get(u, CURLUPART_HOST, &host, 0) != CURLUE_OK ||
        curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) != CURLUE_OK) {
        st = ty_fail(err, TY_EINVAL, "the picture's address has no host");
    } else if (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0) {
        st = ty_fail(err, TY_EAUTH, "the picture's address is neither http nor https");
    } else {
        size_t n = strlen(host);
        if (n && host[n - 1] == '.') host[n - 1] = '\0'; /* the root's dot */
        long number = strtol(port, NULL, 10);
        bool own = number == (strcmp(scheme, "https") == 0 ? 443 : 80);
        if (!is_listed(f, host, number, own))
            st = ty_fail(err, TY_EAUTH,
                         "pictures from %.100s:%ld are not fetched; send the picture itself", host,
                         number);
    }
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    return st;
}

static ty_status parse_url(const fetch *f, const char *url, CURLU **out, ty_err *err) {
    *out = NULL;
    CURLU *u = curl_url();
    if (!u) return ty_fail(err, TY_ENOMEM, "no memory for an address");
    CURLUcode rc = curl_url_set(u, CURLUPART_URL, url, CURLU_DISALLOW_USER);
    ty_status st = TY_OK;
    if (rc == CURLUE_USER_NOT_ALLOWED)
        st = ty_fail(err, TY_EAUTH, "the picture's address holds a user name");
    else if (rc != CURLUE_OK)
        st = ty_fail(err, TY_EINVAL, "the picture's address is malformed: %s",
                     curl_url_strerror(rc));
    if (st == TY_OK) st = check_url(f, u, err);
    if (st == TY_OK)
        *out = u;
    else
        curl_url_cleanup(u);
    return st;
}

ty_status fetch_check(const fetch *f, const char *url, ty_err *err) {
    CURLU *u;
    ty_status st = parse_url(f, url, &u, err);
    curl_url_cleanup(u);
    return st;
}

/* ---- one transfer, in the worker thread ---- */

static curl_socket_t on_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *a) {
    (void)purpose;
    fetch_job *j = ctx;
    if (!j->owner->opt.allow_private && !address_is_public(&a->addr)) {
        j->private_address = true;
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

static size_t on_data(char *bytes, size_t one, size_t n, void *ctx) {
    fetch_job *j = ctx;
    return ty_buf_append(&j->body, bytes, one * n) == TY_OK ? one * n : 0;
}

static int on_progress(void *ctx, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d) {
    (void)a, (void)b, (void)c, (void)d;
    return atomic_load(&((fetch_job *)ctx)->forgotten);
}

#define SET(option, value) ok = ok && curl_easy_setopt(j->easy, option, value) == CURLE_OK

static bool set_up(fetch_job *j) {
    bool ok = true;
    const fetch_options *o = &j->owner->opt;
    int64_t left_ms = (j->deadline_us - ty_now_us()) / 1000;
    SET(CURLOPT_CURLU, j->url);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_PROXY, ""); /* whatever the environment says: it would resolve names itself */
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_FOLLOWLOCATION, 0L); /* each hop is checked here */
    SET(CURLOPT_TIMEOUT_MS, (long)(left_ms > 1 ? left_ms : 1));
    SET(CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)o->max_bytes);
    SET(CURLOPT_USERAGENT, "tyto/" TYTO_VERSION);
    SET(CURLOPT_OPENSOCKETFUNCTION, on_socket);
    SET(CURLOPT_OPENSOCKETDATA, j);
    SET(CURLOPT_WRITEFUNCTION, on_data);
    SET(CURLOPT_WRITEDATA, j);
    SET(CURLOPT_NOPROGRESS, 0L);
    SET(CURLOPT_XFERINFOFUNCTION, on_progress);
    SET(CURLOPT_XFERINFODATA, j);
    SET(CURLOPT_PRIVATE, j);
    return ok;
}

static ty_status go(fetch_job *j, ty_err *err) {
    ty_buf_reset(&j->body);
    j->private_address = false;
    if (!j->easy) j->easy = curl_easy_init();
    if (!j->easy || !set_up(j) || curl_multi_add_handle(j->owner->multi, j->easy) != CURLM_OK)
        return ty_fail(err, TY_ENOMEM, "no memory for a transfer");
    return TY_OK;
}

/* Goes to where the answer points; TY_EAUTH when that may not be asked. */
static ty_status follow(fetch_job *j, const char *to, ty_err *err) {
    CURLU *u;
    if (++j->redirects > REDIRECTS_MAX)
        return ty_fail(err, TY_EAUTH, "more than %d redirects", REDIRECTS_MAX);
    ty_status st = parse_url(j->owner, to, &u, err);
    if (st != TY_OK) {
        ty_err_context(err, "redirected");
        return st == TY_EINVAL ? TY_EAUTH : st;
    }
    curl_url_cleanup(j->url);
    j->url = u;
    return go(j, err);
}

static ty_status failure_of(const fetch_job *j, CURLcode rc, ty_err *err) {
    if (j->private_address)
        return ty_fail(err, TY_EAUTH, "the picture's host has an address that is not public");
    if (rc == CURLE_FILESIZE_EXCEEDED || j->body.failed == TY_ELIMIT)
        return ty_fail(err, TY_ELIMIT, "the picture at the address is larger than %zu bytes",
                       j->owner->opt.max_bytes);
    if (rc == CURLE_OPERATION_TIMEDOUT)
        return ty_fail(err, TY_ETIMEOUT, "the picture did not come within %d ms",
                       j->owner->opt.timeout_ms);
    return ty_fail(err, TY_EIO, "the picture cannot be fetched: %s", curl_easy_strerror(rc));
}

/* TY_OK with *again: another hop is under way. */
static ty_status judge(fetch_job *j, CURLcode rc, bool *again, ty_err *err) {
    long status = 0;
    char *to = NULL;
    if (rc != CURLE_OK) return failure_of(j, rc, err);
    (void)curl_easy_getinfo(j->easy, CURLINFO_RESPONSE_CODE, &status);
    (void)curl_easy_getinfo(j->easy, CURLINFO_REDIRECT_URL, &to);
    if (to) {
        char *copy = strdup(to); /* the next transfer overwrites it */
        if (!copy) return ty_fail(err, TY_ENOMEM, "no memory for an address");
        ty_status st = follow(j, copy, err);
        free(copy);
        *again = st == TY_OK;
        return st;
    }
    if (status != 200)
        return ty_fail(err, TY_EIO, "the picture's server answers with status %ld", status);
    return TY_OK;
}

/* ---- between the threads ---- */

static void give_back(fetch_job *j) {
    fetch *f = j->owner;
    curl_easy_cleanup(j->easy);
    j->easy = NULL;
    (void)pthread_mutex_lock(&f->lock);
    j->next = f->finished;
    f->finished = j;
    (void)pthread_mutex_unlock(&f->lock);
    if (eventfd_write(f->wake, 1) != 0) return; /* full: the loop is on its way already */
}

static void end_job(fetch_job *j, ty_status st) {
    fetch_job **p = &j->owner->running;
    while (*p && *p != j) p = &(*p)->next;
    if (*p) *p = j->next;
    j->st = st;
    give_back(j);
}

static void take_fresh(fetch *f) {
    (void)pthread_mutex_lock(&f->lock);
    fetch_job *j = f->fresh;
    f->fresh = NULL;
    (void)pthread_mutex_unlock(&f->lock);
    for (fetch_job *next; j; j = next) {
        next = j->next;
        j->next = f->running;
        f->running = j;
        ty_status st = go(j, &j->err);
        if (st != TY_OK) end_job(j, st);
    }
}

static void take_done(fetch *f) {
    int left;
    CURLMsg *m;
    while ((m = curl_multi_info_read(f->multi, &left))) {
        if (m->msg != CURLMSG_DONE) continue;
        fetch_job *j = NULL;
        CURLcode rc = m->data.result;
        (void)curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &j);
        (void)curl_multi_remove_handle(f->multi, m->easy_handle);
        bool again = false;
        ty_status st = judge(j, rc, &again, &j->err);
        if (!again) end_job(j, st);
    }
}

static void *work(void *arg) {
    fetch *f = arg;
    int running;
    while (!atomic_load(&f->stop)) {
        take_fresh(f);
        (void)curl_multi_perform(f->multi, &running);
        take_done(f);
        (void)curl_multi_poll(f->multi, NULL, 0, POLL_MS, NULL);
    }
    return NULL;
}

static void job_free(fetch_job *j) {
    curl_easy_cleanup(j->easy);
    curl_url_cleanup(j->url);
    ty_buf_clear(&j->body);
    free(j);
}

static void on_finished(evutil_socket_t fd, short what, void *arg) {
    (void)what;
    fetch *f = arg;
    eventfd_t n;
    (void)eventfd_read(fd, &n);
    (void)pthread_mutex_lock(&f->lock);
    fetch_job *j = f->finished;
    f->finished = NULL;
    (void)pthread_mutex_unlock(&f->lock);
    for (fetch_job *next; j; j = next) {
        next = j->next;
        if (!atomic_load(&j->forgotten)) {
            size_t size = j->body.len;
            uint8_t *bytes = j->st == TY_OK ? (uint8_t *)ty_buf_take(&j->body) : NULL;
            j->done(j->ctx, j->st, bytes, bytes ? size : 0, &j->err);
        }
        job_free(j);
    }
}

/* ---- public ---- */

ty_status fetch_create(fetch **out, struct event_base *base, const fetch_options *opt,
                       ty_err *err) {
    *out = NULL;
    if (!opt->hosts[strspn(opt->hosts, ", ")] || strlen(opt->hosts) >= HOSTS_MAX_BYTES)
        return ty_fail(err, TY_EINVAL, "the list of hosts for pictures is empty or too long");
    fetch *f = calloc(1, sizeof(*f));
    if (!f) return ty_fail(err, TY_ENOMEM, "no memory to fetch pictures");
    f->opt = *opt;
    memcpy(f->hosts, opt->hosts, strlen(opt->hosts) + 1);
    (void)pthread_mutex_init(&f->lock, NULL);
    f->wake = -1;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) == 0) f->multi = curl_multi_init();
    if (f->multi) f->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (f->wake >= 0) f->event = event_new(base, f->wake, EV_READ | EV_PERSIST, on_finished, f);
    if (f->event && event_add(f->event, NULL) == 0 &&
        curl_multi_setopt(f->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)CONNECTIONS_MAX) ==
            CURLM_OK)
        f->started = pthread_create(&f->thread, NULL, work, f) == 0;
    if (!f->started) {
        fetch_destroy(&f);
        return ty_fail(err, TY_EINTERNAL, "libcurl or its thread cannot be started");
    }
    *out = f;
    return TY_OK;
}

static void free_list(fetch *f, fetch_job *j) {
    for (fetch_job *next; j; j = next) {
        next = j->next;
        if (j->easy) (void)curl_multi_remove_handle(f->multi, j->easy);
        job_free(j);
    }
}

void fetch_destroy(fetch **fp) {
    if (!fp || !*fp) return;
    fetch *f = *fp;
    atomic_store(&f->stop, true);
    if (f->started) {
        (void)curl_multi_wakeup(f->multi);
        (void)pthread_join(f->thread, NULL);
    }
    free_list(f, f->running);
    free_list(f, f->fresh);
    free_list(f, f->finished);
    if (f->event) event_free(f->event);
    if (f->wake >= 0) close(f->wake);
    if (f->multi) (void)curl_multi_cleanup(f->multi);
    (void)pthread_mutex_destroy(&f->lock);
    curl_global_cleanup();
    free(f);
    *fp = NULL;
}

ty_status fetch_start(fetch *f, const char *url, fetch_done_fn done, void *ctx, fetch_job **job,
                      ty_err *err) {
    CURLU *u;
    *job = NULL;
    ty_status st = parse_url(f, url, &u, err);
    if (st != TY_OK) return st;
    fetch_job *j = calloc(1, sizeof(*j));
    if (!j) {
        curl_url_cleanup(u);
        return ty_fail(err, TY_ENOMEM, "no memory to fetch a picture");
    }
    j->owner = f;
    j->done = done;
    j->ctx = ctx;
    j->url = u;
    j->body = ty_buf_make(f->opt.max_bytes);
    j->deadline_us = ty_now_us() + (int64_t)f->opt.timeout_ms * 1000;
    (void)pthread_mutex_lock(&f->lock);
    j->next = f->fresh;
    f->fresh = j;
    (void)pthread_mutex_unlock(&f->lock);
    (void)curl_multi_wakeup(f->multi);
    *job = j;
    return TY_OK;
}

void fetch_forget(fetch_job **job) {
    if (!*job) return;
    atomic_store(&(*job)->forgotten, true);
    *job = NULL;
}
