#include "training/sample.h"
#include "training/batch.h"

#include <stdlib.h>
#include <string.h>

/* Ids and labels side by side. */
typedef struct {
    const sample_rules *rules;
    ty_ids id, label;
    ty_err *err;
} writer;

static ty_status put(writer *w, int32_t id, bool learnt) {
    if (ty_ids_push(&w->id, id) == TY_OK &&
        ty_ids_push(&w->label, learnt ? id : OWL_IGNORE) == TY_OK)
        return TY_OK;
    return ty_fail(w->err, TY_ENOMEM, "no memory for a sample");
}

static ty_status put_text(writer *w, const char *text, size_t len, bool learnt) {
    int before = w->id.n;
    ty_status st =
        ty_tokenizer_encode(w->rules->tokenizer, TY_TOKENIZE_SLOW, text, len, &w->id, w->err);
    for (int i = before; i < w->id.n && st == TY_OK; i++)
        st = ty_ids_push(&w->label, learnt ? w->id.id[i] : OWL_IGNORE);
    return st;
}

/* ---- v1 ---- */

static const char *const MARK[] = {"<image>", "AI: ", "\nHuman: "};
enum { IMAGE, AI, HUMAN, N_MARK };

/* The nearest separator at or behind text; *which says which.  NULL: none. */
static const char *next_mark(const char *text, const char *end, int *which) {
    const char *best = NULL;
    for (int i = 0; i < N_MARK; i++) {
        const char *at = memmem(text, (size_t)(end - text), MARK[i], strlen(MARK[i]));
        if (!at || (best && at >= best)) continue;
        best = at;
        *which = i;
    }
    return best;
}

/* Each separator and each text between two is a chunk of its own for the tokenizer.  What stands right
 * behind "AI: " is an answer: learnt, with an end of text behind it. */
static ty_status make_v1(writer *w, const char *text) {
    const char *end = text + strlen(text);
    bool answer = false;
    ty_status st = put(w, ty_tokenizer_bos(w->rules->tokenizer), false);
    while (text < end && st == TY_OK) {
        int which = 0;
        const char *mark = next_mark(text, end, &which), *stop = mark ? mark : end;
        if (stop > text) {
            st = put_text(w, text, (size_t)(stop - text), answer);
            if (answer && st == TY_OK) st = put(w, ty_tokenizer_eos(w->rules->tokenizer), true);
        }
        if (!mark || st != TY_OK) break;
        text = mark + strlen(MARK[which]);
        answer = which == AI;
        if (which == IMAGE)
            for (int i = 0; i < w->rules->visual_rows && st == TY_OK; i++) st = put(w, -1, false);
        else
            st = put_text(w, mark, strlen(MARK[which]), false);
    }
    return st;
}

/* ---- v2 ---- */

static const char SYSTEM[] =
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions.";
static const char PLACEHOLDER[] = "<|image|>", ANSWER[] = " ASSISTANT: ", STOP[] = "</s>";

/* Chunks between placeholders, each with bos in the reference, which is dropped from all but the first;
 * an empty first chunk has none at all. */
static ty_status tokenize_v2(const sample_rules *r, const char *text, size_t len, ty_ids *out,
                             ty_err *err) {
    const char *end = text + len;
    ty_status st = TY_OK;
    for (bool first = true; st == TY_OK; first = false) {
        const char *mark = memmem(text, (size_t)(end - text), PLACEHOLDER, sizeof PLACEHOLDER - 1);
        size_t n = (size_t)((mark ? mark : end) - text);
        if (first && n > 0) st = ty_ids_push(out, ty_tokenizer_bos(r->tokenizer));
        if (st == TY_OK)
            st = ty_tokenizer_encode(r->tokenizer, TY_TOKENIZE_SLOW, text, n, out, err);
        if (!mark || st != TY_OK) break;
        st = ty_ids_push(out, -200);
        text = mark + sizeof PLACEHOLDER - 1;
    }
    return st;
}

static ty_status length_v2(const sample_rules *r, const char *text, size_t len, int *n,
                           ty_err *err) {
    ty_ids ids = {0};
    ty_status st = tokenize_v2(r, text, len, &ids, err);
    *n = ids.n;
    ty_ids_clear(&ids);
    return st;
}

/* Placeholders move to the front of their message, a line of their own. */
static void put_message(ty_buf *out, const char *text) {
    const char *mark = strstr(text, PLACEHOLDER);
    if (!mark) {
        ty_buf_puts(out, text);
        return;
    }
    ty_buf rest = ty_buf_make(out->max);
    for (const char *at = text;; at = mark + sizeof PLACEHOLDER - 1) {
        mark = strstr(at, PLACEHOLDER);
        ty_buf_append(&rest, at, mark ? (size_t)(mark - at) : strlen(at));
        if (!mark) break;
    }
    const char *body = rest.data ? rest.data : "";
    size_t len = strlen(body);
    while (len > 0 && strchr(" \n\t\r", body[len - 1])) len--;
    while (len > 0 && strchr(" \n\t\r", *body)) body++, len--;
    ty_buf_printf(out, "%s\n", PLACEHOLDER);
    ty_buf_append(out, body, len);
    if (rest.failed) out->failed = rest.failed;
    ty_buf_clear(&rest);
}

static ty_status conversation_text(const json_t *turns, ty_buf *out, ty_err *err) {
    size_t i, first = 0;
    const json_t *turn;
    ty_buf_puts(out, SYSTEM);
    ty_buf_puts(out, " ");
    /* a leading answer is skipped, as the reference does */
    const char *from = json_string_value(json_object_get(json_array_get(turns, 0), "from"));
    if (from && strcmp(from, "human") != 0) first = 1;
    json_array_foreach(turns, i, turn) {
        const char *role = json_string_value(json_object_get(turn, "from"));
        const char *value = json_string_value(json_object_get(turn, "value"));
        bool human = (i - first) % 2 == 0;
        if (i < first) continue;
        if (!role || !value || strcmp(role, human ? "human" : "gpt") != 0)
            return ty_fail(err, TY_EFORMAT,
                           "conversations[%zu]: want \"from\": \"%s\" and a text \"value\"", i,
                           human ? "human" : "gpt");
        ty_buf_puts(out, human ? "USER: " : "ASSISTANT: ");
        put_message(out, value);
        ty_buf_puts(out, human ? " " : STOP);
    }
    return out->failed == TY_OK ? TY_OK : ty_fail(err, out->failed, "a conversation is too long");
}

/* The reference measures each round and its instruction in ids and masks by position; a conversation
 * whose rounds do not add up to the whole is not learnt at all. */
static ty_status mask_v2(writer *w, const char *text) {
    int at = 1, n_round, n_instruction;
    const sample_rules *r = w->rules;
    for (const char *round = text; *round;) {
        const char *stop = strstr(round, STOP), *end = stop ? stop : round + strlen(round);
        const char *answer = memmem(round, (size_t)(end - round), ANSWER, sizeof ANSWER - 1);
        if (!answer) break;
        const char *behind = answer + sizeof ANSWER - 1;
        if (memmem(behind, (size_t)(end - behind), ANSWER, sizeof ANSWER - 1)) break;
        ty_status st = length_v2(r, round, (size_t)(end - round), &n_round, w->err);
        if (st == TY_OK) st = length_v2(r, round, (size_t)(behind - round), &n_instruction, w->err);
        if (st != TY_OK) return st;
        for (int i = at + n_instruction - 2; i < at + n_round && i < w->id.n; i++)
            if (i >= 0) w->label.id[i] = w->id.id[i];
        at += n_round;
        round = stop ? stop + sizeof STOP - 1 : end;
    }
    if (at < r->max_length && at != w->id.n)
        for (int i = 0; i < w->label.n; i++) w->label.id[i] = OWL_IGNORE;
    return TY_OK;
}

static ty_status make_v2(writer *w, const json_t *turns) {
    ty_buf text = ty_buf_make((size_t)16 << 20);
    ty_status st = conversation_text(turns, &text, w->err);
    if (st == TY_OK) st = tokenize_v2(w->rules, text.data, text.len, &w->id, w->err);
    for (int i = 0; i < w->id.n && st == TY_OK; i++) st = ty_ids_push(&w->label, OWL_IGNORE);
    if (st == TY_OK) st = mask_v2(w, text.data);
    ty_buf_clear(&text);
    return st;
}

/* ---- a record ---- */

static ty_status add_picture(sample *s, const json_t *path, ty_err *err) {
    if (!json_is_string(path))
        return ty_fail(err, TY_EFORMAT, "image: want a path or a list of paths");
    if (s->n_picture == SAMPLE_PICTURES)
        return ty_fail(err, TY_ELIMIT, "more than %d pictures", SAMPLE_PICTURES);
    s->picture[s->n_picture] = strdup(json_string_value(path));
    if (!s->picture[s->n_picture]) return ty_fail(err, TY_ENOMEM, "no memory for a sample");
    s->n_picture++;
    return TY_OK;
}

static ty_status add_pictures(sample *s, const json_t *image, ty_err *err) {
    size_t i;
    const json_t *path;
    ty_status st = TY_OK;
    if (!image || json_is_null(image)) return TY_OK;
    if (!json_is_array(image)) return add_picture(s, image, err);
    json_array_foreach(image, i, path) {
        if (st == TY_OK) st = add_picture(s, path, err);
    }
    return st;
}

static ty_status make(writer *w, const json_t *record) {
    const json_t *turns = json_object_get(record, "conversations");
    const char *text = json_string_value(json_object_get(record, "text"));
    const ty_tokenizer *t = w->rules->tokenizer;
    if (w->rules->version == 2) {
        if (json_is_array(turns)) return make_v2(w, turns);
        return ty_fail(w->err, TY_EFORMAT,
                       "no list \"conversations\": is this data for mPLUG-Owl2?");
    }
    if (!text)
        return ty_fail(w->err, TY_EFORMAT, "no text \"text\": is this data for mPLUG-Owl v1?");
    if (w->rules->version == 1) return make_v1(w, text);
    ty_status st = put(w, ty_tokenizer_bos(t), false);
    if (st == TY_OK) st = put_text(w, text, strlen(text), true);
    return st == TY_OK ? put(w, ty_tokenizer_eos(t), true) : st;
}

/* ---- cells ---- */

static ty_status put_cells(writer *w, const json_t *text) {
    const char *s = json_string_value(text);
    if (!s || strlen(s) != (size_t)w->rules->cells)
        return ty_fail(w->err, TY_EFORMAT, "cells: want texts of %d letters, one for each patch",
                       w->rules->cells);
    for (; *s; s++) {
        bool learnt = *s != '.';
        if (learnt && (*s < '0' || *s >= '0' + SAMPLE_CLASSES))
            return ty_fail(w->err, TY_EFORMAT, "cells: '%c' is neither '.' nor one of '0' to '%c'",
                           *s, '0' + SAMPLE_CLASSES - 1);
        if (ty_ids_push(&w->label, learnt ? *s - '0' : OWL_IGNORE) != TY_OK)
            return ty_fail(w->err, TY_ENOMEM, "no memory for a sample");
    }
    return TY_OK;
}

static ty_status make_cells(writer *w, const json_t *list) {
    size_t i;
    const json_t *text;
    ty_status st = TY_OK;
    if (json_array_size(list) == 0)
        return ty_fail(w->err, TY_EFORMAT, "no list \"cells\": is this data for a ViT alone?");
    json_array_foreach(list, i, text) {
        if (st == TY_OK) st = put_cells(w, text);
    }
    return st;
}

/* What rows are encoded behind: a digit, which joins nothing. */
static const char BEFORE[] = "0";

/* The one piece of a row, as it is behind the `before` pieces of BEFORE. */
static ty_status put_row(writer *w, const char *row, int before) {
    char text[128];
    ty_ids ids = {0};
    const ty_tokenizer *t = w->rules->tokenizer;
    if (snprintf(text, sizeof text, "%s%s", BEFORE, row) >= (int)sizeof text)
        return ty_fail(w->err, TY_EFORMAT, "rows: \"%.100s\" is too long for one piece", row);
    ty_status st = ty_tokenizer_encode(t, TY_TOKENIZE_SPM, text, strlen(text), &ids, w->err);
    if (st == TY_OK && ids.n != before + 1)
        st = ty_fail(w->err, TY_EFORMAT, "rows: \"%.100s\" is %d pieces, a row is one", row,
                     ids.n - before);
    if (st == TY_OK && ty_ids_push(&w->label, ids.id[ids.n - 1]) != TY_OK)
        st = ty_fail(w->err, TY_ENOMEM, "no memory for a sample");
    ty_ids_clear(&ids);
    return st;
}

static ty_status make_rows(writer *w, const json_t *list) {
    size_t i;
    const json_t *row;
    ty_ids before = {0};
    if (json_array_size(list) != (size_t)w->rules->visual_rows)
        return ty_fail(w->err, TY_EFORMAT,
                       "rows: want a list of %d pieces, one for each visual row",
                       w->rules->visual_rows);
    ty_status st = ty_tokenizer_encode(w->rules->tokenizer, TY_TOKENIZE_SPM, BEFORE, strlen(BEFORE),
                                       &before, w->err);
    json_array_foreach(list, i, row) {
        if (st != TY_OK) break;
        st = json_is_string(row) ? put_row(w, json_string_value(row), before.n)
                                 : ty_fail(w->err, TY_EFORMAT, "rows: not only texts");
    }
    ty_ids_clear(&before);
    return st;
}

static ty_status sample_of_labels(sample *s, const sample_rules *rules, const json_t *record,
                                  ty_err *err) {
    writer w = {.rules = rules, .err = err};
    memset(s, 0, sizeof *s);
    ty_status st = rules->lesson == LESSON_CELLS ? make_cells(&w, json_object_get(record, "cells"))
                                                 : make_rows(&w, json_object_get(record, "rows"));
    if (st == TY_OK) st = add_pictures(s, json_object_get(record, "image"), err);
    if (st == TY_OK && s->n_picture != 1)
        st = ty_fail(err, TY_EFORMAT, "image: labels are of one picture, not of %d", s->n_picture);
    s->label = w.label.id;
    s->n = w.label.n;
    for (int i = 0; i < s->n; i++) s->n_target += s->label[i] != OWL_IGNORE;
    if (st != TY_OK) sample_clear(s);
    return st;
}

ty_status sample_make(sample *s, const sample_rules *rules, const json_t *record, ty_err *err) {
    if (rules->lesson != LESSON_TALK) return sample_of_labels(s, rules, record, err);
    writer w = {.rules = rules, .err = err};
    memset(s, 0, sizeof *s);
    ty_status st = make(&w, record);
    if (st == TY_OK && rules->version) st = add_pictures(s, json_object_get(record, "image"), err);
    s->id = w.id.id;
    s->label = w.label.id;
    s->n = w.id.n < rules->max_length ? w.id.n : rules->max_length;
    for (int i = 1; i < s->n && st == TY_OK; i++) s->n_target += s->label[i] != OWL_IGNORE;
    if (st != TY_OK) sample_clear(s);
    return st;
}

void sample_clear(sample *s) {
    free(s->id);
    free(s->label);
    for (int i = 0; i < s->n_picture; i++) free(s->picture[i]);
    memset(s, 0, sizeof *s);
}
