/* turn.c - see turn.h. */
#include "services/gateway/turn.h"

#include "common/base/clock.h"
#include "common/base/log.h"

#include <stdio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RETRY_MS = 100 };

typedef enum { NEW, BEGINNING, OPEN, COMMITTING, COMMITTED } turn_state;

struct turn {
    turn_options opt; /* its texts are the three below */
    char *owner, *model, *holder, *key, *digest;
    char id[TY_CONVERSATION_ID], lease[TY_LEASE];
    bool is_new;
    turn_state state;
    ty_store_command command; /* begin or commit, kept until it is answered */
    ty_redis_sent *sent;
    int64_t give_up_us;
    struct event *retry, *renew;
    turn_begun_fn begun;
    turn_committed_fn committed;
    void *ctx;
};

static ty_conversation_turn step_of(const turn *t) {
    return (ty_conversation_turn){.id = t->id,
                                  .owner = t->owner,
                                  .lease = t->lease,
                                  .holder = t->holder,
                                  .key = t->key,
                                  .digest = t->digest,
                                  .lease_ms = TURN_LEASE_MS,
                                  .create = t->is_new,
                                  .model = t->model};
}

static void schedule(struct event *e, int ms) {
    struct timeval tv = {ms / 1000, (ms % 1000) * 1000};
    (void)event_add(e, &tv);
}

/* ---- begin and commit: one command at a time, tried again until give_up_us ---- */

static void finish(turn *t, ty_status st, json_t *conversation, const ty_err *err) {
    ty_store_command_clear(&t->command);
    if (t->state == BEGINNING) {
        bool done = json_is_true(json_object_get(conversation, "done"));
        t->state = st != TY_OK ? NEW : done ? COMMITTED : OPEN;
        if (t->state == OPEN) schedule(t->renew, TURN_LEASE_MS / 4);
        if (done)
            snprintf(t->id, sizeof(t->id), "%s",
                     json_string_value(json_object_get(conversation, "id")));
        t->begun(t->ctx, conversation, err); /* may end the turn */
    } else {
        t->state = st == TY_OK ? COMMITTED : OPEN;
        if (st == TY_OK) (void)event_del(t->renew);
        t->committed(t->ctx, st, err); /* likewise */
    }
}

static void on_step(void *ctx, const redisReply *r, const ty_err *lost);

/* TY_OK: it is on its way, or will be tried again. */
static ty_status try_step(turn *t, ty_err *err) {
    ty_status st = ty_redis_async_send(t->opt.redis, &t->command, on_step, t, &t->sent, err);
    if (st != TY_EUNAVAILABLE || ty_now_us() >= t->give_up_us) return st;
    schedule(t->retry, RETRY_MS);
    return TY_OK;
}

static void on_retry(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    turn *t = arg;
    ty_err err = {0};
    ty_status st = try_step(t, &err);
    if (st != TY_OK) finish(t, st, NULL, &err);
}

static void on_step(void *ctx, const redisReply *r, const ty_err *lost) {
    turn *t = ctx;
    ty_err err = {0};
    json_t *conversation = NULL;
    ty_status st;
    t->sent = NULL;
    if (!r) {
        err = *lost;
        st = err.code;
        /* It may have been done: the lease may be ours already, so a second try is the way to know. */
        if (t->state == BEGINNING && t->give_up_us == 0)
            t->give_up_us = ty_now_us() + TURN_BEGIN_PATIENCE_MS * 1000LL;
    } else if (t->state == BEGINNING) {
        st = ty_conversation_read(r, &conversation, &err);
    } else {
        st = ty_store_read_done(r, NULL, &err);
    }
    if ((st == TY_EIO || st == TY_EUNAVAILABLE) && ty_now_us() < t->give_up_us)
        schedule(t->retry, RETRY_MS);
    else
        finish(t, st, conversation, &err);
    json_decref(conversation);
}

/* ---- the lease ---- */

static void on_renew(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    turn *t = arg;
    ty_store_command c;
    ty_conversation_turn step = step_of(t);
    /* One that does not get through is made good by the next; a lease that is lost shows at the commit. */
    if (ty_conversation_renew(&c, &step, NULL) == TY_OK) {
        if (ty_redis_async_send(t->opt.redis, &c, NULL, NULL, NULL, NULL) != TY_OK)
            ty_debug("conversation=%s lease not renewed", t->id);
        ty_store_command_clear(&c);
    }
    schedule(t->renew, TURN_LEASE_MS / 4);
}

/* ---- public ---- */

ty_status turn_release(ty_redis_async *redis, const char *holder, const char *mark, ty_err *err) {
    ty_store_command c;
    ty_status st = ty_conversation_release(&c, holder, mark, err);
    if (st != TY_OK) return st;
    st = ty_redis_async_send(redis, &c, NULL, NULL, NULL, err);
    ty_store_command_clear(&c);
    return st;
}

ty_status turn_create(turn **out, const turn_options *opt, ty_err *err) {
    *out = NULL;
    turn *t = calloc(1, sizeof(*t));
    if (!t) return ty_fail(err, TY_ENOMEM, "no memory for a turn");
    t->opt = *opt;
    t->is_new = !opt->id;
    t->owner = strdup(opt->owner);
    t->holder = strdup(opt->holder);
    t->key = strdup(opt->key ? opt->key : "");
    t->digest = strdup(opt->digest ? opt->digest : "");
    t->model = strdup(opt->model ? opt->model : "");
    t->retry = event_new(opt->base, -1, 0, on_retry, t);
    t->renew = event_new(opt->base, -1, 0, on_renew, t);
    ty_status st = TY_OK;
    if (!t->owner || !t->model || !t->holder || !t->key || !t->digest || !t->retry || !t->renew)
        st = ty_fail(err, TY_ENOMEM, "no memory for a turn");
    if (st == TY_OK && t->is_new)
        st = ty_conversation_new_id(t->id, err);
    else if (st == TY_OK && !ty_conversation_id_valid(opt->id))
        st = ty_fail(err, TY_ENOTFOUND, "no such conversation");
    else if (st == TY_OK)
        snprintf(t->id, sizeof(t->id), "%s", opt->id);
    if (st == TY_OK) st = ty_conversation_new_lease(opt->mark, t->lease, err);
    if (st == TY_OK)
        *out = t;
    else
        turn_end(&t);
    return st;
}

const char *turn_id(const turn *t) {
    return t->id;
}

bool turn_is_new(const turn *t) {
    return t->is_new;
}

ty_status turn_begin(turn *t, const ty_conversation_picture *pics, int n_pic, turn_begun_fn done,
                     void *ctx, ty_err *err) {
    ty_conversation_turn step = step_of(t);
    step.pics = pics;
    step.n_pic = n_pic;
    ty_status st = ty_conversation_begin(&t->command, &step, t->opt.policy, err);
    if (st != TY_OK) return st;
    t->begun = done;
    t->ctx = ctx;
    t->give_up_us = 0;
    t->state = BEGINNING;
    st = try_step(t, err);
    if (st != TY_OK) t->state = NEW;
    return st;
}

ty_status turn_commit(turn *t, const turn_record *r, turn_committed_fn done, void *ctx,
                      ty_err *err) {
    ty_conversation_turn step = step_of(t);
    step.model = r->model;
    step.title = r->title;
    step.turns = r->texts;
    step.n_turn = r->n_text;
    step.pics = r->pics;
    step.n_pic = r->n_pic;
    ty_status st = ty_conversation_commit(&t->command, &step, t->opt.policy, err);
    if (st != TY_OK) return st;
    t->committed = done;
    t->ctx = ctx;
    t->give_up_us = ty_now_us() + TURN_COMMIT_PATIENCE_MS * 1000LL;
    t->state = COMMITTING;
    st = try_step(t, err);
    if (st != TY_OK) t->state = OPEN;
    return st;
}

/* A command that does not get through costs others the rest of the lease, nothing else. */
static void abandon(turn *t) {
    ty_store_command c;
    ty_conversation_turn step = step_of(t);
    if (ty_conversation_abandon(&c, &step, NULL) != TY_OK) return;
    if (ty_redis_async_send(t->opt.redis, &c, NULL, NULL, NULL, NULL) != TY_OK)
        ty_debug("conversation=%s lease not given up", t->id);
    ty_store_command_clear(&c);
}

void turn_end(turn **tp) {
    if (!tp || !*tp) return;
    turn *t = *tp;
    ty_redis_sent_forget(&t->sent);
    if (t->state == BEGINNING || t->state == OPEN) abandon(t);
    if (t->retry) event_free(t->retry);
    if (t->renew) event_free(t->renew);
    ty_store_command_clear(&t->command);
    free(t->owner);
    free(t->holder);
    free(t->key);
    free(t->digest);
    free(t->model);
    free(t);
    *tp = NULL;
}
