/* record.c - a sample's life, and its forms on disk. */
#include "training/owlet/record.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 1 << 14 };

static const char PREAMBLE[] =
    "The following is a conversation between a curious human and AI assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions.";

const char *ability_name(ability a) {
    static const char *const NAME[ABILITY_COUNT_OF] = {
        "describe", "count", "colour", "place", "read", "document", "compare", "follow", "text"};
    return NAME[a];
}

void record_init(record *r, ability what, language lang) {
    memset(r, 0, sizeof *r);
    r->what = what;
    r->lang = lang;
    for (int i = 0; i < RECORD_TURNS_MAX; i++) {
        r->question[i] = ty_buf_make(TEXT_MAX);
        r->answer[i] = ty_buf_make(TEXT_MAX);
    }
    for (int i = 0; i < RECORD_EXPECT_MAX; i++) r->expect[i] = ty_buf_make(TEXT_MAX);
    for (int i = 0; i < RECORD_PICTURES_MAX; i++) r->seen[i] = ty_buf_make(TEXT_MAX);
}

void record_clear(record *r) {
    for (int i = 0; i < RECORD_PICTURES_MAX; i++) {
        free(r->jpeg[i]);
        r->jpeg[i] = NULL;
        ty_buf_clear(&r->seen[i]);
    }
    for (int i = 0; i < RECORD_TURNS_MAX; i++) {
        ty_buf_clear(&r->question[i]);
        ty_buf_clear(&r->answer[i]);
    }
    for (int i = 0; i < RECORD_EXPECT_MAX; i++) ty_buf_clear(&r->expect[i]);
    r->n_picture = r->n_turn = r->n_expect = 0;
}

void record_turn(record *r, const char *question, const char *answer, const facts *f) {
    say(&r->question[r->n_turn], r->lang, question, f);
    say(&r->answer[r->n_turn], r->lang, answer, f);
    r->n_turn++;
    while (r->n_expect) ty_buf_reset(&r->expect[--r->n_expect]);
}

void record_turn_opened(record *r, chance *c, const char *question, const char *answer,
                        const facts *f) {
    static const char *const OPENING[][LANG_COUNT] = {
        {"A question: ", "问题：", "質問です。", "Eine Frage: "},
        {"Tell me: ", "告诉我：", "教えてください。", "Sag mir: "},
        {"Please tell me: ", "请告诉我：", "お願いします。", "Bitte sag mir: "},
        {"Look here. ", "看这里。", "ここを見てください。", "Sieh her. "},
        {"Answer: ", "回答：", "答えは？", "Antworte: "},
        {"Look at this. ", "看一看。", "これを見て。", "Sieh dir das an. "},
    };
    const char *opening = chance_is(c, 0.7)
                              ? ""
                              : OPENING[chance_below(c, sizeof OPENING / sizeof *OPENING)][r->lang];
    char q[512];
    snprintf(q, sizeof q, "%s%s", opening, question);
    record_turn(r, q, answer, f);
}

void record_expect(record *r, const char *alternatives) {
    ty_buf_puts(&r->expect[r->n_expect++], alternatives);
}

void record_expect_number(record *r, int n) {
    ty_buf *b = &r->expect[r->n_expect++];
    ty_buf_printf(b, "%d|%s", n, lexicon_number(n, r->lang));
    if (r->lang == LANG_ZH && n == 2) ty_buf_puts(b, "|两");
    if (r->lang == LANG_DE && n == 1) ty_buf_puts(b, "|ein|eine");
    if (r->lang == LANG_EN && n == 1) ty_buf_puts(b, "|a|an");
    if (r->lang == LANG_JA) ty_buf_printf(b, "|%s", lexicon_number(n, LANG_ZH));
}

void record_expect_kind(record *r, kind k) {
    const noun *n = lexicon_noun(k);
    ty_buf *b = &r->expect[r->n_expect++];
    switch (r->lang) {
    case LANG_EN: ty_buf_printf(b, "%s|%s", n->en, n->en_plural); break;
    case LANG_DE: ty_buf_printf(b, "%s|%s", n->de, n->de_plural); break;
    case LANG_ZH: ty_buf_puts(b, n->zh); break;
    default: ty_buf_puts(b, n->ja); break;
    }
}

void record_expect_colour(record *r, colour c) {
    const shade *s = lexicon_shade(c);
    ty_buf *b = &r->expect[r->n_expect++];
    switch (r->lang) {
    case LANG_EN: ty_buf_puts(b, s->en); break;
    case LANG_DE:
        ty_buf_printf(b, "%s|%se|%ser|%ses", s->de_stem, s->de_stem, s->de_stem, s->de_stem);
        break;
    case LANG_ZH: ty_buf_puts(b, s->zh); break;
    default: ty_buf_printf(b, "%s|%s", s->ja_is, s->ja_of); break;
    }
}

ty_status record_check(const record *r, ty_err *err) {
    ty_status st = TY_OK;
    for (int i = 0; i < RECORD_PICTURES_MAX && st == TY_OK; i++) st = r->seen[i].failed;
    for (int i = 0; i < r->n_turn && st == TY_OK; i++) {
        st = r->question[i].failed;
        if (st == TY_OK) st = r->answer[i].failed;
        if (st == TY_OK && (r->question[i].len == 0 || r->answer[i].len == 0)) st = TY_EINTERNAL;
    }
    for (int i = 0; i < r->n_expect && st == TY_OK; i++) st = r->expect[i].failed;
    if (st != TY_OK)
        return ty_fail(
            err, st, "a record of %s in %s: %s", ability_name(r->what), lexicon_language(r->lang),
            st == TY_EINTERNAL ? "a template with a placeholder that is not known, or an empty turn"
                               : "out of memory");
    return TY_OK;
}

/* ---- forms ---- */

static json_t *pictures(const record *r, const char *prefix) {
    json_t *list = json_array();
    char name[512];
    for (int i = 0; i < r->n_picture; i++) {
        snprintf(name, sizeof name, "%s-%d.jpg", prefix, i);
        json_array_append_new(list, json_string(name));
    }
    return list;
}

static void dump(json_t *o, ty_buf *out) {
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    if (text)
        ty_buf_puts(out, text);
    else
        out->failed = TY_ENOMEM;
    free(text);
    json_decref(o);
}

void record_put_seen(const ty_buf *seen, ty_buf *out) {
    for (const char *p = seen->data; p && *p; p++)
        if (*p != '\n') ty_buf_append(out, p, 1);
    if (seen->failed != TY_OK) out->failed = seen->failed;
}

static void prompt_text(const record *r, bool in_words, const char *preamble, ty_buf *text) {
    ty_buf_puts(text, preamble);
    for (int i = 0; i < RECORD_PICTURES_MAX && in_words && r->seen[i].len; i++) {
        ty_buf_puts(text, "\nHuman: ");
        record_put_seen(&r->seen[i], text);
    }
    for (int i = 0; i < r->n_picture && !in_words; i++) ty_buf_puts(text, "\nHuman: <image>");
    for (int i = 0; i < r->n_turn; i++)
        ty_buf_printf(text, "\nHuman: %s\nAI: %s", r->question[i].data, r->answer[i].data);
}

void record_train_v1(const record *r, const char *prefix, ty_buf *out) {
    ty_buf text = ty_buf_make(1 << 16);
    prompt_text(r, false, PREAMBLE, &text);
    json_t *o = json_object();
    json_object_set_new(o, "text", json_stringn(text.data, text.len));
    json_object_set_new(o, "task_type", json_string("llava_sft"));
    if (r->n_picture) json_object_set_new(o, "image", pictures(r, prefix));
    json_object_set_new(o, "ability", json_string(ability_name(r->what)));
    json_object_set_new(o, "language", json_string(lexicon_language(r->lang)));
    if (text.failed != TY_OK) out->failed = text.failed;
    dump(o, out);
    ty_buf_clear(&text);
}

void record_train_v2(const record *r, const char *prefix, const char *id, ty_buf *out) {
    ty_buf text = ty_buf_make(1 << 16);
    json_t *turns = json_array();
    for (int i = 0; i < r->n_turn; i++) {
        ty_buf_reset(&text);
        for (int k = 0; k < r->n_picture && i == 0; k++) ty_buf_puts(&text, "<|image|>\n");
        ty_buf_puts(&text, r->question[i].data);
        json_array_append_new(turns, json_pack("{s:s, s:o}", "from", "human", "value",
                                               json_stringn(text.data, text.len)));
        json_array_append_new(turns,
                              json_pack("{s:s, s:s}", "from", "gpt", "value", r->answer[i].data));
    }
    json_t *o = json_pack("{s:o, s:s}", "conversations", turns, "id", id);
    json_t *names = pictures(r, prefix);
    if (r->n_picture == 1) json_object_set(o, "image", json_array_get(names, 0));
    if (r->n_picture > 1) json_object_set(o, "image", names);
    json_decref(names);
    if (text.failed != TY_OK) out->failed = text.failed;
    dump(o, out);
    ty_buf_clear(&text);
}

void record_cells(const record *r, int i, const char *prefix, int side, int grid, ty_buf *out) {
    char cell[CELL_SIDES][CELL_GRID_MAX * CELL_GRID_MAX + 1], name[512];
    json_t *list = json_array();
    cells_of(&r->marks[i], side, grid, cell);
    for (int k = 0; k < CELL_SIDES; k++) json_array_append_new(list, json_string(cell[k]));
    snprintf(name, sizeof name, "%s-%d.jpg", prefix, i);
    dump(json_pack("{s:[s], s:o}", "image", name, "cells", list), out);
}

void record_rows(const record *r, int i, const char *prefix, ty_buf *out) {
    char name[512];
    json_t *list = json_array();
    for (const char *p = r->seen[i].data; p && *p;) {
        size_t n = strcspn(p, "\n");
        json_array_append_new(list, json_stringn(p, n));
        p += n + (p[n] == '\n');
    }
    snprintf(name, sizeof name, "%s-%d.jpg", prefix, i);
    dump(json_pack("{s:[s], s:o}", "image", name, "rows", list), out);
}

void record_exam(const record *r, const char *prefix, const char *id, ty_buf *out) {
    json_t *turns = json_array(), *expect = json_array();
    ty_buf text = ty_buf_make(1 << 16);
    for (int i = 0; i < r->n_turn; i++) {
        ty_buf_reset(&text);
        for (int k = 0; k < RECORD_PICTURES_MAX && !prefix && i == 0 && r->seen[k].len; k++) {
            record_put_seen(&r->seen[k], &text);
            ty_buf_puts(&text, "\nHuman: ");
        }
        ty_buf_puts(&text, r->question[i].data);
        json_array_append_new(turns,
                              json_pack("{s:o, s:s}", "question", json_stringn(text.data, text.len),
                                        "answer", r->answer[i].data));
    }
    for (int i = 0; i < r->n_expect; i++) {
        json_t *any = json_array();
        const char *s = r->expect[i].data;
        while (*s) {
            size_t n = strcspn(s, "|");
            json_array_append_new(any, json_stringn(s, n));
            s += n + (s[n] == '|');
        }
        json_array_append_new(expect, any);
    }
    dump(json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:f}", "id", id, "ability",
                   ability_name(r->what), "language", lexicon_language(r->lang), "image",
                   prefix ? pictures(r, prefix) : json_array(), "turns", turns, "expect", expect,
                   "guess", r->guess),
         out);
    if (text.failed != TY_OK) out->failed = text.failed;
    ty_buf_clear(&text);
}

void record_corpus(const record *r, bool with_preamble, ty_buf *out) {
    prompt_text(r, true, with_preamble ? PREAMBLE : "", out);
}

void record_text_line(const ty_buf *text, ty_buf *out) {
    dump(json_pack("{s:o, s:s}", "text", json_stringn(text->data, text->len), "task_type",
                   "pretraining"),
         out);
}
