/* request.c - a chat request in memory: building, counting, checking.  JSON: request_json.c. */
#include "common/chat/request.h"

#include <stdlib.h>
#include <string.h>

/* What stands for a picture in the prompts of the model families.  A text may hold none of them, whichever
 * model it is for: a conversation can go on with another one. */
static const char *const placeholders[] = {"<image>", "<|image|>", "<|video|>"};
enum { N_PLACEHOLDER = sizeof placeholders / sizeof *placeholders };

const char *ty_role_name(ty_role r) {
    static const char *const names[] = {"system", "user", "assistant"};
    return r <= TY_ROLE_ASSISTANT ? names[r] : "?";
}

bool ty_chat_template_known(const char *name) {
    static const char *const names[] = {"readme", "serve", "mplug_owl2", "vicuna_v1"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}

ty_status ty_chat_request_init(ty_chat_request *r) {
    *r = (ty_chat_request){
        .template_name = strdup(""), .model = strdup(""), .conversation = strdup("")};
    ty_sampling_default(&r->sampling);
    if (r->template_name && r->model && r->conversation) return TY_OK;
    ty_chat_request_clear(r);
    return TY_ENOMEM;
}

void ty_chat_request_clear(ty_chat_request *r) {
    for (int i = 0; i < r->n_turn; i++) {
        for (int j = 0; j < r->turn[i].n_part; j++) free(r->turn[i].part[j].text);
        free(r->turn[i].part);
    }
    free(r->turn);
    free(r->prompt);
    free(r->template_name);
    free(r->model);
    free(r->conversation);
    *r = (ty_chat_request){0};
}

ty_status ty_chat_add_turn(ty_chat_request *r, ty_role role, ty_err *err) {
    if (r->n_turn >= TY_CHAT_TURNS_MAX)
        return ty_fail(err, TY_ELIMIT, "more than %d messages", TY_CHAT_TURNS_MAX);
    ty_turn *p = realloc(r->turn, ((size_t)r->n_turn + 1) * sizeof *p);
    if (!p) return ty_fail(err, TY_ENOMEM, "out of memory");
    r->turn = p;
    r->turn[r->n_turn++] = (ty_turn){.role = role};
    return TY_OK;
}

/* Appends a part with a copy of `len` bytes of text (NULL allowed). */
static ty_status add_part(ty_chat_request *r, bool is_image, const char *text, size_t len,
                          ty_err *err) {
    if (!r->n_turn) return ty_fail(err, TY_EINVAL, "a part needs a turn to stand in");
    ty_turn *turn = &r->turn[r->n_turn - 1];
    if (turn->n_part >= 1 << 20) return ty_fail(err, TY_ELIMIT, "too many parts in one message");
    ty_part *p = realloc(turn->part, ((size_t)turn->n_part + 1) * sizeof *p);
    if (!p) return ty_fail(err, TY_ENOMEM, "out of memory");
    turn->part = p;
    p += turn->n_part;
    *p = (ty_part){.is_image = is_image};
    if (text && !(p->text = strndup(text, len))) return ty_fail(err, TY_ENOMEM, "out of memory");
    turn->n_part++;
    return TY_OK;
}

ty_status ty_chat_add_text(ty_chat_request *r, const char *text, size_t len, ty_err *err) {
    if (memchr(text, '\0', len))
        return ty_fail(err, TY_EUNSUPPORTED, "a text with a NUL character is not supported");
    return add_part(r, false, text, len, err);
}

ty_status ty_chat_add_image(ty_chat_request *r, const char *url, ty_err *err) {
    if (ty_chat_request_images(r) >= TY_CHAT_IMAGES_MAX)
        return ty_fail(err, TY_ELIMIT, "more than %d pictures", TY_CHAT_IMAGES_MAX);
    return add_part(r, true, url, url ? strlen(url) : 0, err);
}

static ty_part *last_part(ty_chat_request *r) {
    ty_turn *t = &r->turn[r->n_turn - 1];
    return &t->part[t->n_part - 1];
}

ty_status ty_chat_add_video(ty_chat_request *r, const char *url, ty_err *err) {
    ty_status st = ty_chat_add_image(r, url, err);
    if (st == TY_OK) last_part(r)->is_video = true;
    return st;
}

ty_status ty_chat_add_file(ty_chat_request *r, bool video, const char *id, ty_err *err) {
    ty_status st = (video ? ty_chat_add_video : ty_chat_add_image)(r, id, err);
    if (st == TY_OK) last_part(r)->is_file = true;
    return st;
}

static int count_placeholders(const char *text) {
    int n = 0;
    for (int i = 0; i < N_PLACEHOLDER; i++)
        for (const char *at = text; (at = strstr(at, placeholders[i])); n++)
            at += strlen(placeholders[i]);
    return n;
}

int ty_turn_images(const ty_turn *t) {
    int n = 0;
    for (int i = 0; i < t->n_part; i++) n += t->part[i].is_image;
    return n;
}

int ty_chat_request_images(const ty_chat_request *r) {
    if (r->prompt) return count_placeholders(r->prompt);
    int n = 0;
    for (int i = 0; i < r->n_turn; i++) n += ty_turn_images(&r->turn[i]);
    return n;
}

static ty_status check_part(const ty_turn *t, const ty_part *p, ty_err *err) {
    if (p->is_image && t->role != TY_ROLE_USER)
        return ty_fail(err, TY_EINVAL,
                       "a picture or video in a %s message; only a user's may have one",
                       ty_role_name(t->role));
    /* In an answer they are the model's words. */
    for (int i = 0; t->role != TY_ROLE_ASSISTANT && !p->is_image && i < N_PLACEHOLDER; i++)
        if (strstr(p->text, placeholders[i]))
            return ty_fail(
                err, TY_EINVAL,
                "the text contains \"%s\", a model's placeholder for a picture, without a "
                "picture for it: send the picture as a part of its own, or write the word "
                "another way",
                placeholders[i]);
    return TY_OK;
}

ty_status ty_chat_request_check(const ty_chat_request *r, int *turn, ty_err *err) {
    int unused;
    if (!turn) turn = &unused;
    *turn = -1;
    if (r->prompt) return TY_OK;
    int n_user = 0, last = -1;
    for (int i = 0; i < r->n_turn; i++) {
        n_user += r->turn[i].role == TY_ROLE_USER;
        if (r->turn[i].role != TY_ROLE_SYSTEM) last = i;
        for (int j = 0; j < r->turn[i].n_part; j++) {
            *turn = i;
            ty_status st = check_part(&r->turn[i], &r->turn[i].part[j], err);
            if (st != TY_OK) return st;
        }
    }
    *turn = -1;
    if (!n_user) return ty_fail(err, TY_EINVAL, "there is no user message to answer");
    *turn = last;
    if (r->turn[last].role == TY_ROLE_ASSISTANT)
        return ty_fail(err, TY_EINVAL,
                       "the last message is the assistant's; to be answered it must be a user's");
    *turn = -1;
    return TY_OK;
}
