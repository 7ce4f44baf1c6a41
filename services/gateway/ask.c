/* ask.c - see ask.h. */
#include "services/gateway/ask.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/store/token_cache.h"
#include "common/wire/chat_codec.h"
#include "services/gateway/prefix_keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BACKOFF_US = 200 * 1000,
    NO_LINK_RETRY_US = 50 * 1000,
    POISON_ATTEMPTS = 3,
    LINKS_LOST_MAX = 20
};

typedef enum {
    IDLE,    /* waits for others: a copy for its picture, the decode task for the visual tokens */
    LOOKING, /* a cache is asked */
    DUE,     /* to be sent at due_us */
    SENT,
    DONE,
} part_state;

typedef struct {
    part_state state;
    ty_message *task;   /* what is sent; shares its frames with every send */
    ty_message *result; /* pictures: holds the visual tokens */
    int same_as;        /* an earlier part with the same picture, or -1 */
    int link, sends;
    int tries;                    /* sends since its answer moved last, that one included */
    int links_lost;               /* since then: they are no try of the part's own */
    uint32_t generation, attempt; /* of the last send; the highest seen */
    uint32_t attempt_moved;       /* the one before that in which its answer moved last */
    int64_t due_us, heard_us;
    ty_status why; /* of the last failure, for the last word */
    char why_text[sizeof((ty_err){0}.text)], why_stage[32];
} part;

struct ask {
    char *id;
    ask_options opt;
    part *part;
    int n_pictures; /* parts are one more */
    bool finished;
};

static part *decode_part(ask *a) {
    return &a->part[a->n_pictures];
}

/* ---- making ---- */

static ty_status add_hop(Tyto__Envelope *e, const ty_pipeline *p, ty_stage_kind k) {
    Tyto__Hop *h = ty_pb_new(&tyto__hop__descriptor);
    if (!h) return TY_ENOMEM;
    if (ty_pb_set_str(&h->stage, ty_stage_name(k)) == TY_OK &&
        ty_pb_set_str(&h->model, p->model_id[k]) == TY_OK &&
        ty_pb_set_str(&h->adapter, k == TY_STAGE_DECODER ? p->adapter_id : "") == TY_OK &&
        ty_pb_append(&e->itinerary, &e->n_itinerary, h) == TY_OK)
        return TY_OK;
    tyto__hop__free_unpacked(h, NULL);
    return TY_ENOMEM;
}

/* Envelope, itinerary from stage `first` to `last`, and an empty Task. */
static ty_message *task_create(const ask *a, int i, ty_stage_kind first, ty_stage_kind last) {
    ty_message *m = ty_message_new();
    Tyto__Task *t = ty_pb_new(&tyto__task__descriptor);
    if (!m || !t) goto failed;
    Tyto__Envelope *e = m->env;
    e->part = (uint32_t)i;
    e->deadline_unix_us = ty_now_unix_us() + (a->opt.deadline_us - ty_now_us());
    if (ty_pb_set_str(&e->request_id, a->id) != TY_OK ||
        ty_pb_set_str(&e->pipeline, a->opt.pipeline->name) != TY_OK ||
        ty_pb_set_str(&e->traceparent, a->opt.traceparent) != TY_OK)
        goto failed;
    for (int k = (int)first; k <= (int)last; k++)
        if (add_hop(e, a->opt.pipeline, (ty_stage_kind)k) != TY_OK) goto failed;
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_TASK, t);
    return m;
failed:
    if (t) tyto__task__free_unpacked(t, NULL);
    ty_message_destroy(&m);
    return NULL;
}

static void free_bytes(void *data, void *hint) {
    (void)hint;
    free(data);
}

static ty_status make_picture(ask *a, int i, ask_picture *p, ty_err *err) {
    part *x = &a->part[i];
    uint8_t *bytes = p->bytes;
    p->bytes = NULL;
    char sha256[TY_SHA256_HEX];
    if (p->sha256 && *p->sha256)
        snprintf(sha256, sizeof(sha256), "%s", p->sha256);
    else
        ty_sha256_hex(bytes, p->size, sha256);
    x->task = task_create(a, i, TY_STAGE_PREPROCESS, TY_STAGE_ABSTRACTOR);
    Tyto__Picture *about = x->task ? ty_pb_new(&tyto__picture__descriptor) : NULL;
    if (about) {
        x->task->env->picture = about;
        about->upright = p->upright;
    }
    if (!about || ty_pb_set_str(&about->sha256, sha256) != TY_OK ||
        (p->video && ty_pb_set_str(&about->mode, "video") != TY_OK)) {
        free(bytes);
        return ty_fail(err, TY_ENOMEM, "no memory for the task of picture %d", i);
    }
    return ty_message_add_tensor(x->task, "picture", TYTO__DTYPE__DTYPE_U8, 1,
                                 (const int64_t[]){(int64_t)p->size}, bytes, p->size, free_bytes,
                                 NULL, err);
}

static int find_same(const ask_picture *p, const part *x, int i) {
    for (int j = 0; j < i; j++) {
        if (x[j].same_as >= 0) continue;
        zmq_msg_t *f = &x[j].task->frame[0]; /* p[j].bytes moved there */
        if (p[j].video == p[i].video && zmq_msg_size(f) == p[i].size &&
            memcmp(zmq_msg_data(f), p[i].bytes, p[i].size) == 0)
            return j;
    }
    return -1;
}

static ty_status make_pictures(ask *a, ask_picture *p, ty_err *err) {
    const ty_pipeline *pl = a->opt.pipeline;
    if (a->n_pictures && !ty_pipeline_has_vision(pl))
        return ty_fail(err, TY_EUNSUPPORTED, "model %s reads text alone; leave the pictures out",
                       pl->name);
    for (int i = 0; i < a->n_pictures; i++)
        if (p[i].video && !ty_pipeline_sees_videos(pl))
            return ty_fail(err, TY_EUNSUPPORTED,
                           "model %s sees no videos; send one of the pictures", pl->name);
    for (int i = 0; i < a->n_pictures; i++) {
        a->part[i].same_as = find_same(p, a->part, i);
        if (a->part[i].same_as >= 0) continue;
        ty_status st = make_picture(a, i, &p[i], err);
        if (st != TY_OK) return st;
        a->part[i].state = DUE;
    }
    return TY_OK;
}

/* Names the beginnings of the decode task's prompt, `d`. */
static ty_status name_prefixes(const ask *a, Tyto__DecodeTask *d, ty_err *err) {
    const char **sha256 = calloc((size_t)a->n_pictures + 1, sizeof(*sha256));
    if (!sha256) return ty_fail(err, TY_ENOMEM, "no memory for the prompt's names");
    for (int i = 0; i < a->n_pictures; i++) {
        const part *x = &a->part[a->part[i].same_as >= 0 ? a->part[i].same_as : i];
        sha256[i] = x->task->env->picture->sha256;
    }
    ty_status st = prefix_keys_set(d, a->opt.pipeline, sha256, a->n_pictures, err);
    free(sha256);
    return st;
}

ty_status ask_create(ask **out, const ask_options *opt, ask_picture *pictures, int n_pictures,
                     Tyto__DecodeTask *decode, ty_err *err) {
    *out = NULL;
    ty_status st = TY_ENOMEM;
    ask *a = calloc(1, sizeof(*a));
    if (!a) goto done;
    a->opt = *opt;
    a->n_pictures = n_pictures;
    a->id = strdup(opt->request_id);
    a->part = calloc((size_t)n_pictures + 1, sizeof(*a->part));
    if (!a->id || !a->part) goto done;
    for (int i = 0; i <= n_pictures; i++) a->part[i].same_as = a->part[i].link = -1;
    st = make_pictures(a, pictures, err);
    if (st == TY_OK) st = name_prefixes(a, decode, err);
    if (st != TY_OK) goto done;
    part *d = decode_part(a);
    d->task = task_create(a, n_pictures, TY_STAGE_DECODER, TY_STAGE_DECODER);
    if (!d->task) st = TY_ENOMEM;
    if (st != TY_OK) goto done;
    d->task->env->task->decode = decode;
    decode = NULL;
    d->state = n_pictures ? IDLE : DUE;
    a->opt.pipeline = NULL; /* borrowed until here */
    *out = a;
    a = NULL;
done:
    if (st == TY_ENOMEM) (void)ty_fail(err, st, "no memory for the request");
    if (decode) tyto__decode_task__free_unpacked(decode, NULL);
    for (int i = 0; i < n_pictures; i++) {
        free(pictures[i].bytes);
        pictures[i].bytes = NULL;
    }
    ask_destroy(&a);
    return st;
}

void ask_destroy(ask **a) {
    if (!a || !*a) return;
    for (int i = 0; (*a)->part && i <= (*a)->n_pictures; i++) {
        ty_message_destroy(&(*a)->part[i].task);
        ty_message_destroy(&(*a)->part[i].result);
    }
    free((*a)->part);
    free((*a)->id);
    free(*a);
    *a = NULL;
}

bool ask_finished(const ask *a) {
    return a->finished;
}

const char *ask_id(const ask *a) {
    return a->id;
}

/* ---- ending ---- */

static void send_cancel(ask *a, int i) {
    part *p = &a->part[i];
    if (p->state != SENT) return;
    ty_message *m = ty_message_new();
    Tyto__Cancel *c = ty_pb_new(&tyto__cancel__descriptor);
    if (m && c && ty_pb_set_str(&m->env->request_id, a->id) == TY_OK) {
        m->env->part = (uint32_t)i;
        m->env->generation = p->generation;
        ty_message_set_body(m, TYTO__ENVELOPE__BODY_CANCEL, c);
        c = NULL;
        int link = p->link;
        /* A cancel that does not get through costs the workers' time, nothing else. */
        if (a->opt.sink.send(a->opt.sink.ctx, &link, &m, NULL) != TY_OK)
            ty_debug("req=%s part=%d cancel not sent", a->id, i);
    }
    if (c) tyto__cancel__free_unpacked(c, NULL);
    ty_message_destroy(&m);
}

void ask_cancel(ask *a) {
    if (a->finished) return;
    a->finished = true;
    for (int i = 0; i <= a->n_pictures; i++) send_cancel(a, i);
}

static void fail(ask *a, int i, ty_status st, const char *stage, const char *text) {
    if (a->finished) return;
    ask_cancel(a);
    a->opt.sink.on_fail(a->opt.sink.ctx, st, stage, text, i < a->n_pictures ? i : -1);
}

/* ---- sending ---- */

/* The first stage of a part's way: what is said when nothing is known of a later one. */
static const char *stage_of(const ask *a, int i) {
    const Tyto__Envelope *e = a->part[i].task->env;
    return e->n_itinerary ? e->itinerary[0]->stage : "";
}

static void note(part *p, ty_status st, const char *stage, const char *text) {
    p->why = st;
    snprintf(p->why_text, sizeof(p->why_text), "%s", text);
    snprintf(p->why_stage, sizeof(p->why_stage), "%s", stage);
}

static void send_part(ask *a, int i) {
    part *p = &a->part[i];
    ty_err err = {0};
    ty_message *m = NULL;
    ty_status st = ty_message_dup(p->task, &m, &err);
    if (st != TY_OK) {
        fail(a, i, st, "", err.text);
        return;
    }
    m->env->generation = p->generation + 1;
    m->env->attempt = p->attempt + 1;
    uint32_t attempt = m->env->attempt;
    int link = -1;
    st = a->opt.sink.send(a->opt.sink.ctx, &link, &m, &err);
    ty_message_destroy(&m);
    if (st == TY_OK) {
        p->state = SENT;
        p->link = link;
        p->sends++;
        p->tries++;
        p->generation++;
        p->attempt = attempt;
        p->heard_us = ty_now_us();
    } else if (st == TY_EUNAVAILABLE || st == TY_EOVERLOAD) {
        note(p, st, "", err.text);
        p->due_us = ty_now_us() + NO_LINK_RETRY_US;
    } else {
        fail(a, i, st, "", err.text);
    }
}

/* Part i failed in a way that another try may cure. */
static void again(ask *a, int i, ty_status st, const char *stage, const char *text) {
    part *p = &a->part[i];
    note(p, st, stage, text);
    if (p->tries >= a->opt.max_sends) {
        char all[640];
        snprintf(all, sizeof(all), "%s (sent %d times)", text, p->sends);
        fail(a, i, st, stage, all);
        return;
    }
    ty_warn("req=%s part=%d sends=%d is sent again: %s %s: %s", a->id, i, p->sends,
            ty_status_name(st), stage, text);
    p->state = DUE;
    p->due_us = ty_now_us() + (st == TY_EUNAVAILABLE || st == TY_EOVERLOAD
                                   ? (int64_t)BACKOFF_US << (2 * (p->tries > 0 ? p->tries - 1 : 0))
                                   : 0);
    a->opt.sink.on_event(a->opt.sink.ctx, ASK_RESENT, stage);
}

/* That send failed for no fault of the part: its broker went away, or has just come. */
static void forgive(part *p) {
    if (p->links_lost++ < LINKS_LOST_MAX) p->tries--;
}

static void send_due(ask *a) {
    int64_t now = ty_now_us();
    for (int i = 0; i <= a->n_pictures && !a->finished; i++)
        if (a->part[i].state == DUE && a->part[i].due_us <= now) send_part(a, i);
}

void ask_start(ask *a) {
    for (int i = 0; a->opt.look_up && i < a->n_pictures; i++) {
        part *p = &a->part[i];
        if (p->state == DUE && a->opt.look_up(a->opt.look_up_ctx, p->task->env)) p->state = LOOKING;
    }
    send_due(a);
}

void ask_link_lost(ask *a, int link) {
    for (int i = 0; i <= a->n_pictures && !a->finished; i++)
        if (a->part[i].state == SENT && a->part[i].link == link) {
            forgive(&a->part[i]);
            again(a, i, TY_EUNAVAILABLE, "", "the broker that had it does not answer");
        }
}

/* What an answer that did not come in time waits for. */
static void fail_deadline(ask *a) {
    int i = 0;
    while (i < a->n_pictures && (a->part[i].state == DONE || a->part[i].state == IDLE)) i++;
    const part *p = &a->part[i];
    char text[640];
    snprintf(text, sizeof(text), "the request's deadline passed while %s was waited for%s%s",
             i < a->n_pictures ? "a picture" : "the decoder",
             p->why != TY_OK ? "; last trouble: " : "", p->why != TY_OK ? p->why_text : "");
    fail(a, a->n_pictures, TY_ETIMEOUT, "", text);
}

void ask_tick(ask *a) {
    int64_t now = ty_now_us();
    if (a->finished) return;
    if (now >= a->opt.deadline_us) {
        fail_deadline(a);
        return;
    }
    for (int i = 0; i <= a->n_pictures && !a->finished; i++) {
        part *p = &a->part[i];
        if (p->state != SENT || now - p->heard_us < a->opt.part_timeout_us) continue;
        send_cancel(a, i);
        again(a, i, TY_ETIMEOUT, stage_of(a, i), "no word of it in time");
    }
    send_due(a);
}

int64_t ask_due_us(const ask *a) {
    int64_t due = a->opt.deadline_us;
    for (int i = 0; i <= a->n_pictures && !a->finished; i++) {
        const part *p = &a->part[i];
        int64_t at = p->state == DUE    ? p->due_us
                     : p->state == SENT ? p->heard_us + a->opt.part_timeout_us
                                        : due;
        if (at < due) due = at;
    }
    return due;
}

/* ---- receiving ---- */

/* Moves copies of all visual tokens behind the decode task, in the pictures' order. */
static ty_status gather(ask *a, ty_err *err) {
    ty_message *to = decode_part(a)->task;
    for (int i = 0; i < a->n_pictures; i++) {
        int from = a->part[i].same_as >= 0 ? a->part[i].same_as : i;
        ty_message *copy = NULL;
        ty_status st = ty_message_dup(a->part[from].result, &copy, err);
        if (st == TY_OK) st = ty_message_move_tensors(to, copy, err);
        ty_message_destroy(&copy);
        if (st != TY_OK) return st;
    }
    return TY_OK;
}

static bool pictures_done(const ask *a) {
    for (int i = 0; i < a->n_pictures; i++)
        if (a->part[i].same_as < 0 && a->part[i].state != DONE) return false;
    return true;
}

static void decode_when_ready(ask *a) {
    part *d = decode_part(a);
    if (d->state != IDLE || !pictures_done(a)) return;
    ty_err err = {0};
    ty_status st = gather(a, &err);
    if (st != TY_OK) {
        fail(a, a->n_pictures, st, "", err.text);
        return;
    }
    d->state = DUE;
    send_due(a);
}

static void on_picture(ask *a, int i, ty_message **m) {
    ty_err err = {0};
    ty_tensor t;
    const char *name = "";
    ty_status st = ty_message_tensor(*m, 0, &name, &t, &err);
    if (st == TY_OK && ((*m)->env->n_tensors != 1 || strcmp(name, "visual_tokens") != 0))
        st = ty_fail(&err, TY_EFORMAT,
                     "a picture came back as %zu tensors, the first \"%s\"; want "
                     "visual_tokens",
                     (*m)->env->n_tensors, name);
    if (st != TY_OK && ty_status_transient(st)) {
        again(a, i, st, "abstractor", err.text);
        send_due(a);
    } else if (st != TY_OK) {
        fail(a, i, st, "abstractor", err.text);
    } else {
        part *p = &a->part[i];
        p->state = DONE;
        p->result = *m;
        *m = NULL;
        a->opt.sink.on_part(a->opt.sink.ctx, i, p->result, p->sends);
        decode_when_ready(a);
    }
}

void ask_looked_up(ask *a, int i, ty_message **m) {
    if (a->finished || i < 0 || i >= a->n_pictures || a->part[i].state != LOOKING) {
        ty_message_destroy(m);
        return;
    }
    a->part[i].state = DUE;
    if (*m)
        on_picture(a, i, m);
    else
        send_due(a);
    ty_message_destroy(m);
}

static void on_decoded(ask *a, const ty_message *m) {
    const Tyto__DecodeResult *r = m->env->result->decode;
    part *p = decode_part(a);
    if (!r) {
        fail(a, a->n_pictures, TY_EFORMAT, "decoder", "its result holds no answer");
        return;
    }
    p->state = DONE;
    a->finished = true;
    a->opt.sink.on_part(a->opt.sink.ctx, a->n_pictures, m, p->sends);
    a->opt.sink.on_done(a->opt.sink.ctx, r);
}

/* The tokens become part of what is sent again: whoever takes over goes on behind them. */
static void on_chunk(ask *a, const Tyto__Chunk *c) {
    part *p = decode_part(a);
    Tyto__DecodeTask *d = p->task->env->task->decode;
    size_t had = d->n_forced;
    ty_err err = {0};
    ty_status st = ty_chat_codec_force(d, c, &err);
    if (st == TY_EFORMAT) {
        send_cancel(a, a->n_pictures);
        again(a, a->n_pictures, TY_EIO, "decoder", err.text);
        send_due(a);
        return;
    }
    if (st != TY_OK) {
        fail(a, a->n_pictures, st, "", err.text);
        return;
    }
    p->tries = 1;
    p->links_lost = 0;
    p->attempt_moved = p->attempt - 1;
    for (size_t i = had - c->first; i < c->n_tokens && !a->finished; i++)
        a->opt.sink.on_token(a->opt.sink.ctx, c->tokens[i], i + 1 < c->n_tokens);
}

static void on_error(ask *a, int i, const Tyto__Error *e) {
    ty_status st = ty_status_from_name(e->status);
    if (st == TY_OK) st = TY_EINTERNAL;
    a->part[i].state = DONE; /* nothing is left there to cancel */
    /* A deadline that passed on the way is the request's: another try has no time either.  And what
     * broke so many workers is not given to more of them. */
    bool poison =
        st == TY_EINTERNAL && a->part[i].attempt - a->part[i].attempt_moved >= POISON_ATTEMPTS;
    if (st == TY_EUNAVAILABLE && !*e->stage) forgive(&a->part[i]);
    if (ty_status_transient(st) && st != TY_ETIMEOUT && !poison) {
        again(a, i, st, e->stage, e->text);
        send_due(a);
    } else {
        fail(a, i, st, e->stage, e->text);
    }
}

void ask_message(ask *a, int link, ty_message **m) {
    const Tyto__Envelope *e = (*m)->env;
    if (a->finished || e->part > (uint32_t)a->n_pictures) goto done;
    int i = (int)e->part;
    part *p = &a->part[i];
    if (p->state != SENT || p->link != link || e->generation != p->generation) {
        a->opt.sink.on_event(a->opt.sink.ctx, ASK_LATE, stage_of(a, i));
        goto done;
    }
    p->heard_us = ty_now_us();
    if (e->attempt > p->attempt) p->attempt = e->attempt;
    switch (e->body_case) {
    case TYTO__ENVELOPE__BODY_RESULT:
        if (i < a->n_pictures)
            on_picture(a, i, m);
        else
            on_decoded(a, *m);
        break;
    case TYTO__ENVELOPE__BODY_CHUNK:
        if (i == a->n_pictures) on_chunk(a, e->chunk);
        break;
    case TYTO__ENVELOPE__BODY_ERROR: on_error(a, i, e->error); break;
    case TYTO__ENVELOPE__BODY_REDISPATCHED:
        a->opt.sink.on_event(a->opt.sink.ctx, ASK_REDISPATCHED, e->redispatched->stage);
        break;
    default: break;
    }
done:
    ty_message_destroy(m);
}
