/*
 * templates.c - see templates.h.
 *
 * v1's (NOTES §7).  "readme": a picture is a line of its own where it stands among the parts.  "serve": what
 * the web server sends after its rewriting step, which shows one picture in front of a message's text;
 * a second picture of a message would vanish there, so it is an error here.
 *
 * v2's.  "mplug_owl2" and "vicuna_v1" (which training used) differ in the preamble alone; pictures stand
 * inside the text, where their parts do.
 */
#include "common/model/templates.h"

#include "common/base/utf8.h"

#include <string.h>

static const char readme_preamble[] =
    "The following is a conversation between a curious human and AI assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions.";
static const char serve_preamble[] = "The following is a conversation between a curious human and "
                                     "AI. The AI gives helpful, detailed, "
                                     "and polite answers to the human's questions.";

static const char vicuna_preamble[] =
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions.";

static void put_texts(const ty_turn *t, int begin, int end, ty_buf *out) {
    for (int i = begin; i < end; i++)
        if (!t->part[i].is_image) ty_buf_puts(out, t->part[i].text);
}

/* The system messages, one a line, instead of the template's own, and `end`; an empty one stands for no
 * preamble at all. */
static void put_preamble(const ty_chat_request *r, const char *own, const char *end, ty_buf *out) {
    bool replaced = false;
    size_t begin = out->len;
    for (int i = 0; i < r->n_turn; i++) {
        if (r->turn[i].role != TY_ROLE_SYSTEM) continue;
        if (replaced) ty_buf_puts(out, "\n");
        put_texts(&r->turn[i], 0, r->turn[i].n_part, out);
        replaced = true;
    }
    if (!replaced) ty_buf_puts(out, own);
    if (out->len > begin) ty_buf_puts(out, end);
}

static bool has_text(const ty_turn *t, int begin, int end) {
    for (int i = begin; i < end; i++)
        if (!t->part[i].is_image && *t->part[i].text) return true;
    return false;
}

static void put_line(const char *role, const ty_turn *t, int begin, int end, ty_buf *out) {
    ty_buf_puts(out, role);
    put_texts(t, begin, end, out);
    ty_buf_puts(out, "\n");
}

static void put_mark(ty_marks *m, const ty_part *p, ty_buf *out) {
    m->at[m->n++] = out->len;
    ty_buf_puts(out, p->is_video ? m->video : m->picture);
}

static void put_picture_line(ty_marks *m, const ty_part *p, ty_buf *out) {
    ty_buf_puts(out, "Human: ");
    put_mark(m, p, out);
    ty_buf_puts(out, "\n");
}

static const ty_part *first_picture(const ty_turn *t) {
    int i = 0;
    while (!t->part[i].is_image) i++;
    return &t->part[i];
}

/* An empty run of texts makes no line, unless it is all that the turn has. */
static void put_user_readme(const ty_turn *t, ty_marks *m, ty_buf *out) {
    if (ty_turn_images(t) == 0) {
        put_line("Human: ", t, 0, t->n_part, out);
        return;
    }
    for (int i = 0, end; i < t->n_part; i = end) {
        end = i + 1;
        if (t->part[i].is_image) {
            put_picture_line(m, &t->part[i], out);
            continue;
        }
        while (end < t->n_part && !t->part[end].is_image) end++;
        if (has_text(t, i, end)) put_line("Human: ", t, i, end, out);
    }
}

/* Where the web server's client wrote the picture into the text it leaves its line break behind: the
 * rewriting step strips it. */
static void put_user_serve(const ty_turn *t, ty_marks *m, ty_buf *out) {
    if (ty_turn_images(t) == 0) {
        put_line("Human: ", t, 0, t->n_part, out);
        return;
    }
    ty_buf text = ty_buf_make(out->max);
    put_texts(t, 0, t->n_part, &text);
    const char *begin = text.data ? text.data : "";
    size_t len = text.len;
    ty_utf8_strip(&begin, &len);
    put_picture_line(m, first_picture(t), out);
    if (len) {
        ty_buf_puts(out, "Human: ");
        ty_buf_append(out, begin, len);
        ty_buf_puts(out, "\n");
    }
    if (text.failed != TY_OK && out->failed == TY_OK) out->failed = text.failed;
    ty_buf_clear(&text);
}

static void put_lines(const ty_chat_request *r, bool serve, ty_marks *m, ty_buf *out) {
    put_preamble(r, serve ? serve_preamble : readme_preamble, "\n", out);
    for (int i = 0; i < r->n_turn; i++) {
        const ty_turn *t = &r->turn[i];
        if (t->role == TY_ROLE_ASSISTANT) put_line("AI: ", t, 0, t->n_part, out);
        if (t->role != TY_ROLE_USER) continue;
        if (serve)
            put_user_serve(t, m, out);
        else
            put_user_readme(t, m, out);
    }
    ty_buf_puts(out, "AI: ");
}

static ty_status check_serve(const ty_chat_request *r, ty_err *err) {
    for (int i = 0; i < r->n_turn; i++)
        if (ty_turn_images(&r->turn[i]) > 1)
            return ty_fail(err, TY_EINVAL,
                           "messages[%d] has %d pictures, but the template \"serve\" shows one per "
                           "message: spread them over messages, or use the template \"readme\"",
                           i, ty_turn_images(&r->turn[i]));
    return TY_OK;
}

static ty_status readme(const ty_chat_request *r, ty_marks *m, ty_buf *out, ty_err *err) {
    (void)err;
    put_lines(r, false, m, out);
    return TY_OK;
}

static ty_status serve(const ty_chat_request *r, ty_marks *m, ty_buf *out, ty_err *err) {
    ty_status st = check_serve(r, err);
    if (st == TY_OK) put_lines(r, true, m, out);
    return st;
}

/* "ROLE: message" and what ends it; an empty message is "ROLE:" alone, as in the reference. */
static void put_said(const char *role, const ty_turn *t, ty_marks *m, const char *end,
                     ty_buf *out) {
    ty_buf_printf(out, "%s:", role);
    if (ty_turn_images(t) == 0 && !has_text(t, 0, t->n_part)) return;
    ty_buf_puts(out, " ");
    for (int i = 0; i < t->n_part; i++)
        if (t->part[i].is_image)
            put_mark(m, &t->part[i], out);
        else
            ty_buf_puts(out, t->part[i].text);
    ty_buf_puts(out, end);
}

static void put_said_by_all(const ty_chat_request *r, const char *preamble, ty_marks *m,
                            ty_buf *out) {
    put_preamble(r, preamble, " ", out);
    for (int i = 0; i < r->n_turn; i++) {
        const ty_turn *t = &r->turn[i];
        if (t->role == TY_ROLE_USER) put_said("USER", t, m, " ", out);
        if (t->role == TY_ROLE_ASSISTANT) put_said("ASSISTANT", t, m, "</s>", out);
    }
    ty_buf_puts(out, "ASSISTANT:");
}

static ty_status mplug_owl2(const ty_chat_request *r, ty_marks *m, ty_buf *out, ty_err *err) {
    (void)err;
    put_said_by_all(r, "", m, out);
    return TY_OK;
}

static ty_status vicuna_v1(const ty_chat_request *r, ty_marks *m, ty_buf *out, ty_err *err) {
    (void)err;
    put_said_by_all(r, vicuna_preamble, m, out);
    return TY_OK;
}

const ty_template *ty_template_find(const char *name) {
    static const ty_template all[] = {{"readme", NULL, readme},
                                      {"serve", NULL, serve},
                                      {"mplug_owl2", "</s>", mplug_owl2},
                                      {"vicuna_v1", "</s>", vicuna_v1}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].name, name) == 0) return &all[i];
    return NULL;
}
