/* exam.c - reading, marking, summing up. */
#include "eval/exam.h"

#include "common/base/file.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXAM_BYTES_MAX = 256 << 20 };

/* ---- reading ---- */

static bool strings(const json_t *list) {
    size_t i;
    json_t *s;
    json_array_foreach(list, i, s) if (!json_is_string(s)) return false;
    return json_is_array(list);
}

static const char *fault(const json_t *q) {
    size_t i;
    json_t *x;
    if (!json_is_object(q)) return "it is no JSON object";
    if (!json_is_string(json_object_get(q, "ability"))) return "\"ability\" is no text";
    if (!json_is_string(json_object_get(q, "language"))) return "\"language\" is no text";
    if (!strings(json_object_get(q, "image"))) return "\"image\" is no array of file names";
    if (json_array_size(json_object_get(q, "turns")) == 0)
        return "\"turns\" is no array with turns";
    json_array_foreach(
        json_object_get(q, "turns"), i,
        x) if (!json_is_string(json_object_get(x, "question"))) return "a turn has no \"question\"";
    if (json_array_size(json_object_get(q, "expect")) == 0)
        return "\"expect\" is no array with lists of words";
    json_array_foreach(json_object_get(q, "expect"), i,
                       x) if (!strings(x) ||
                              json_array_size(x) ==
                                  0) return "\"expect\" has something that is no list of words";
    return NULL;
}

static ty_status read_lines(exam *e, const char *path, char *text, ty_err *err) {
    int number = 0;
    for (char *line = text, *next; *line; line = next) {
        size_t n = strcspn(line, "\n");
        next = line + n + (line[n] == '\n');
        number++;
        if (n == 0) continue;
        json_error_t where;
        json_t *q = json_loadb(line, n, JSON_REJECT_DUPLICATES, &where);
        const char *why = q ? fault(q) : where.text;
        if (why) {
            ty_status st = ty_fail(err, TY_EFORMAT, "%s: line %d: %s", path, number, why);
            json_decref(q);
            return st;
        }
        if (json_array_append_new(e->questions, q) != 0)
            return ty_fail(err, TY_ENOMEM, "%s: out of memory", path);
    }
    if (json_array_size(e->questions) == 0)
        return ty_fail(err, TY_EFORMAT, "%s: there is no question in it", path);
    return TY_OK;
}

ty_status exam_read(exam *e, const char *path, ty_err *err) {
    char *text = NULL;
    size_t size = 0;
    const char *slash = strrchr(path, '/');
    e->questions = json_array();
    snprintf(e->folder, sizeof e->folder, "%.*s", slash ? (int)(slash - path) : 1,
             slash ? path : ".");
    ty_status st = ty_file_read(path, EXAM_BYTES_MAX, &text, &size, err);
    if (st == TY_OK) st = read_lines(e, path, text, err);
    free(text);
    if (st != TY_OK) exam_clear(e);
    return st;
}

void exam_clear(exam *e) {
    json_decref(e->questions);
    e->questions = NULL;
}

/* ---- marking ---- */

static bool latin(char c) {
    return isalnum((unsigned char)c) && (unsigned char)c < 128;
}

static bool has_word(const char *answer, const char *word) {
    size_t n = strlen(word);
    if (n == 0) return false;
    for (const char *at = answer; (at = strcasestr(at, word)) != NULL; at++) {
        bool before = latin(word[0]) && at > answer && latin(at[-1]);
        bool after = latin(word[n - 1]) && latin(at[n]);
        if (!before && !after) return true;
    }
    return false;
}

static bool has_any(const char *answer, const json_t *words) {
    size_t i;
    json_t *w;
    json_array_foreach(words, i, w) if (has_word(answer, json_string_value(w))) return true;
    return false;
}

bool exam_is_right(const char *answer, const json_t *expect) {
    size_t i;
    json_t *words;
    json_array_foreach(expect, i, words) if (!has_any(answer, words)) return false;
    return true;
}

ty_status exam_mark(exam *e, size_t i, const char *answer, ty_err *err) {
    json_t *q = json_array_get(e->questions, i);
    bool right = exam_is_right(answer, json_object_get(q, "expect"));
    if (json_object_set_new(q, "given", json_string(answer)) != 0 ||
        json_object_set_new(q, "right", json_boolean(right)) != 0)
        return ty_fail(err, TY_ENOMEM, "out of memory for an answer, or it is not UTF-8");
    return TY_OK;
}

/* ---- sums ---- */

static json_t *child(json_t *o, const char *key) {
    json_t *c = json_object_get(o, key);
    if (!c) {
        c = json_object();
        json_object_set_new(o, key, c);
    }
    return c;
}

static void add(json_t *o, const char *key, double x) {
    json_object_set_new(o, key, json_real(json_number_value(json_object_get(o, key)) + x));
}

static void count(json_t *sum, const json_t *q) {
    add(sum, "asked", 1);
    add(sum, "right", json_is_true(json_object_get(q, "right")));
    add(sum, "guesses", json_number_value(json_object_get(q, "guess")));
}

/* Counts become whole numbers, shares appear. */
static void finish(json_t *sum) {
    double asked = json_number_value(json_object_get(sum, "asked"));
    double right = json_number_value(json_object_get(sum, "right"));
    double guesses = json_number_value(json_object_get(sum, "guesses"));
    json_object_set_new(sum, "asked", json_integer((json_int_t)asked));
    json_object_set_new(sum, "right", json_integer((json_int_t)right));
    json_object_set_new(sum, "share", json_real(asked > 0 ? right / asked : 0));
    json_object_set_new(sum, "guess", json_real(asked > 0 ? guesses / asked : 0));
    json_object_del(sum, "guesses");
}

static const char *text_at(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* What a question with one thing to name wants: its list of words; NULL for others. */
static const json_t *wanted(const json_t *q) {
    const json_t *expect = json_object_get(q, "expect");
    return json_array_size(expect) == 1 ? json_array_get(expect, 0) : NULL;
}

/* The thing of this ability and language that the answer names instead. */
static const char *named(const exam *e, const json_t *q) {
    size_t i;
    json_t *other;
    json_array_foreach(e->questions, i, other) {
        const json_t *words = wanted(other);
        if (words && strcmp(text_at(other, "ability"), text_at(q, "ability")) == 0 &&
            strcmp(text_at(other, "language"), text_at(q, "language")) == 0 &&
            has_any(text_at(q, "given"), words))
            return json_string_value(json_array_get(words, 0));
    }
    return "?";
}

static void count_confusion(const exam *e, const json_t *q, json_t *confusions) {
    size_t i;
    json_t *c;
    const json_t *words = wanted(q);
    if (!words || json_is_true(json_object_get(q, "right"))) return;
    const char *expected = json_string_value(json_array_get(words, 0)), *answered = named(e, q);
    json_array_foreach(confusions, i, c) {
        if (strcmp(text_at(c, "expected"), expected) == 0 &&
            strcmp(text_at(c, "answered"), answered) == 0 &&
            strcmp(text_at(c, "ability"), text_at(q, "ability")) == 0 &&
            strcmp(text_at(c, "language"), text_at(q, "language")) == 0) {
            json_object_set_new(c, "n",
                                json_integer(json_integer_value(json_object_get(c, "n")) + 1));
            return;
        }
    }
    json_array_append_new(confusions,
                          json_pack("{s:s, s:s, s:s, s:s, s:i}", "ability", text_at(q, "ability"),
                                    "language", text_at(q, "language"), "expected", expected,
                                    "answered", answered, "n", 1));
}

static int by_number(const void *a, const void *b) {
    json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "n"));
    json_int_t y = json_integer_value(json_object_get(*(json_t *const *)b, "n"));
    return x > y ? -1 : x < y;
}

/* A sorted copy; the references move over. */
static json_t *sorted(json_t *list) {
    size_t n = json_array_size(list);
    json_t **item = calloc(n + 1, sizeof(json_t *)), *out = json_array();
    for (size_t i = 0; item && i < n; i++) item[i] = json_array_get(list, i);
    if (item) qsort(item, n, sizeof(json_t *), by_number);
    for (size_t i = 0; item && i < n; i++) json_array_append(out, item[i]);
    free(item);
    json_decref(list);
    return out;
}

json_t *exam_sum(const exam *e) {
    json_t *sum = json_object(), *q, *ability, *language, *confusions = json_array();
    size_t i;
    const char *name, *lang;
    json_array_foreach(e->questions, i, q) {
        if (!json_object_get(q, "given")) continue;
        ability = child(child(sum, "abilities"), text_at(q, "ability"));
        count(sum, q);
        count(ability, q);
        count(child(child(ability, "languages"), text_at(q, "language")), q);
        count_confusion(e, q, confusions);
    }
    json_object_foreach(json_object_get(sum, "abilities"), name, ability) {
        finish(ability);
        json_object_foreach(json_object_get(ability, "languages"), lang, language) finish(language);
    }
    finish(sum);
    if (sum) json_object_set_new(sum, "confusions", sorted(confusions));
    return sum;
}
