/* exam_page.c - the page; pictures stand in it as data URLs, so that it is one file. */
#include "eval/exam_page.h"

#include "common/base/buf.h"
#include "common/base/file.h"
#include "orchestration/picture_url.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE_BYTES_MAX = 128 << 20, EXAMPLES = 4, CONFUSIONS = 40 };

static const char HEAD[] =
    "<!doctype html><meta charset=utf-8><meta name=viewport "
    "content='width=device-width'><title>Exam</title><style>"
    ":root{color-scheme:light dark}body{font:15px/1.5 "
    "system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px "
    "solid #8884}th:first-child,td:first-child{text-align:left}"
    ".cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1rem}.card{"
    "border:1px solid #8886;border-radius:.5rem;padding:.6rem}"
    ".card img{width:48%;border-radius:.3rem}.right{border-left:.3rem solid "
    "#2a9d4a}.wrong{border-left:.3rem solid #c0392b}.q{font-weight:600}.w{color:#888}</style>";

static const char *text_at(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void put_text(ty_buf *b, const char *s) {
    for (; *s; s++) {
        switch (*s) {
        case '<': ty_buf_puts(b, "&lt;"); break;
        case '>': ty_buf_puts(b, "&gt;"); break;
        case '&': ty_buf_puts(b, "&amp;"); break;
        default: ty_buf_append(b, s, 1); break;
        }
    }
}

static void put_share(ty_buf *b, const json_t *sum) {
    if (!json_is_object(sum)) {
        ty_buf_puts(b, "<td>");
        return;
    }
    ty_buf_printf(b, "<td title='%d of %d'>%.1f %%",
                  (int)json_integer_value(json_object_get(sum, "right")),
                  (int)json_integer_value(json_object_get(sum, "asked")),
                  100 * json_number_value(json_object_get(sum, "share")));
}

static void put_table(ty_buf *b, const json_t *sum) {
    static const char *const LANGUAGE[] = {"en", "zh", "ja", "de"};
    const char *name;
    json_t *ability;
    ty_buf_puts(b, "<table><tr><th>ability<th>asked<th>right<th>guessing<th>en<th>zh<th>ja<th>de");
    json_object_foreach(json_object_get(sum, "abilities"), name, ability) {
        ty_buf_puts(b, "<tr><td>");
        put_text(b, name);
        ty_buf_printf(b, "<td>%d", (int)json_integer_value(json_object_get(ability, "asked")));
        put_share(b, ability);
        ty_buf_printf(b, "<td>%.1f %%", 100 * json_number_value(json_object_get(ability, "guess")));
        for (int i = 0; i < 4; i++)
            put_share(b, json_object_get(json_object_get(ability, "languages"), LANGUAGE[i]));
    }
    ty_buf_printf(b, "<tr><th>all<td>%d", (int)json_integer_value(json_object_get(sum, "asked")));
    put_share(b, sum);
    ty_buf_printf(b, "<td>%.1f %%</table>", 100 * json_number_value(json_object_get(sum, "guess")));
}

static void put_confusions(ty_buf *b, const json_t *list) {
    size_t i;
    json_t *c;
    if (json_array_size(list) == 0) return;
    ty_buf_puts(
        b,
        "<h2>Confusions</h2><table><tr><th>ability<th>language<th>expected<th>answered<th>times");
    json_array_foreach(list, i, c) {
        static const char *const KEY[] = {"ability", "language", "expected", "answered"};
        if (i == CONFUSIONS) break;
        ty_buf_puts(b, "<tr>");
        for (int k = 0; k < 4; k++) {
            ty_buf_puts(b, "<td>");
            put_text(b, text_at(c, KEY[k]));
        }
        ty_buf_printf(b, "<td>%d", (int)json_integer_value(json_object_get(c, "n")));
    }
    ty_buf_puts(b, "</table>");
}

static void put_pictures(ty_buf *b, const exam *e, const json_t *q) {
    size_t i;
    json_t *name;
    json_array_foreach(json_object_get(q, "image"), i, name) {
        char path[8192], *url = NULL;
        snprintf(path, sizeof path, "%s/%s", e->folder, json_string_value(name));
        if (picture_url_of_file(path, &url, NULL) == TY_OK)
            ty_buf_printf(b, "<img alt='' src='%s'> ", url);
        free(url);
    }
}

static void put_card(ty_buf *b, const exam *e, const json_t *q) {
    size_t i;
    json_t *turn;
    size_t last = json_array_size(json_object_get(q, "turns")) - 1;
    ty_buf_printf(b, "<div class='card %s'>",
                  json_is_true(json_object_get(q, "right")) ? "right" : "wrong");
    put_pictures(b, e, q);
    json_array_foreach(json_object_get(q, "turns"), i, turn) {
        ty_buf_puts(b, "<div class=q>");
        put_text(b, text_at(turn, "question"));
        ty_buf_puts(b, "</div><div>");
        put_text(b, i == last ? text_at(q, "given") : text_at(turn, "given"));
        ty_buf_puts(b, "</div>");
    }
    ty_buf_puts(b, "<div class=w>wanted: ");
    put_text(b, text_at(json_array_get(json_object_get(q, "turns"), last), "answer"));
    ty_buf_puts(b, "</div></div>");
}

/* Some right and some wrong answers of an ability. */
static void put_examples(ty_buf *b, const exam *e, const char *ability) {
    size_t i;
    json_t *q;
    int shown[2] = {0, 0};
    ty_buf_puts(b, "<h2>");
    put_text(b, ability);
    ty_buf_puts(b, "</h2><div class=cards>");
    json_array_foreach(e->questions, i, q) {
        int right = json_is_true(json_object_get(q, "right"));
        if (!json_object_get(q, "given") || strcmp(text_at(q, "ability"), ability) != 0 ||
            shown[right] == EXAMPLES)
            continue;
        shown[right]++;
        put_card(b, e, q);
    }
    ty_buf_puts(b, "</div>");
}

ty_status exam_page_write(const exam *e, const json_t *sum, const char *title, const char *path,
                          ty_err *err) {
    ty_buf b = ty_buf_make(PAGE_BYTES_MAX);
    const char *name;
    json_t *ability;
    ty_buf_puts(&b, HEAD);
    ty_buf_puts(&b, "<h1>");
    put_text(&b, title);
    ty_buf_puts(&b, "</h1>");
    put_table(&b, sum);
    put_confusions(&b, json_object_get(sum, "confusions"));
    json_object_foreach(json_object_get(sum, "abilities"), name, ability) put_examples(&b, e, name);
    ty_status st = b.failed != TY_OK
                       ? ty_fail(err, b.failed, "%s: the page is too large for memory", path)
                       : ty_file_write_atomic(path, b.data, b.len, err);
    ty_buf_clear(&b);
    return st;
}
