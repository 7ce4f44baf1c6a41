/*
 * prompt.c - what a family's prompts are made of, prompt text to ids, and the web server's clean-up of
 * answers.  The templates: templates.c.
 */
#include "common/model/prompt.h"

#include "common/base/utf8.h"
#include "common/model/templates.h"

#include <stdlib.h>
#include <string.h>

const ty_prompt_form *ty_prompt_form_of(const char *family) {
    static const ty_prompt_form v1 = {"readme", "<image>", TY_IMAGE_ID, false, NULL},
                                video = {"readme", "<image>", TY_IMAGE_ID, false, "<|video|>"},
                                v2 = {"mplug_owl2", "<|image|>", TY_IMAGE_ID_V2, true, NULL};
    if (strcmp(family, "mplug_owl_v1_video") == 0) return &video;
    return strcmp(family, "mplug_owl_v2") == 0 ? &v2 : &v1;
}

static const char *template_name(const ty_prompt_form *form, const ty_chat_request *r) {
    return r->template_name && *r->template_name ? r->template_name : form->template_name;
}

static ty_status filled(const ty_buf *out, ty_err *err) {
    if (out->failed == TY_OK) return TY_OK;
    return ty_fail(err, out->failed, "the prompt: %s (limit %zu bytes)",
                   ty_status_text(out->failed), out->max);
}

static ty_status check_videos(const ty_prompt_form *form, const ty_chat_request *r, ty_err *err) {
    for (int i = 0; !form->video && i < r->n_turn; i++)
        for (int j = 0; j < r->turn[i].n_part; j++)
            if (r->turn[i].part[j].is_video)
                return ty_fail(err, TY_EUNSUPPORTED,
                               "messages[%d] has a video, but the model sees pictures alone", i);
    return TY_OK;
}

/* The first placeholder in text; NULL: none.  *len, *id: of it. */
static const char *find_mark(const ty_prompt_form *form, const char *text, size_t n, size_t *len,
                             int32_t *id) {
    const char *mark = memmem(text, n, form->placeholder, strlen(form->placeholder));
    *len = strlen(form->placeholder);
    *id = form->image_id;
    if (!form->video) return mark;
    if (mark) n = (size_t)(mark - text);
    const char *video = memmem(text, n, form->video, strlen(form->video));
    if (!video) return mark;
    *len = strlen(form->video);
    *id = TY_VIDEO_ID;
    return video;
}

static ty_status find_all(const ty_prompt_form *form, const char *text, size_t len,
                          ty_prompt_marks *marks, ty_err *err) {
    size_t n;
    int32_t id;
    const char *end = text + len;
    for (const char *p = text; (p = find_mark(form, p, (size_t)(end - p), &n, &id)); p += n) {
        size_t *grown = realloc(marks->at, ((size_t)marks->n + 1) * sizeof *grown);
        if (!grown) return ty_fail(err, TY_ENOMEM, "no memory for the prompt's pictures");
        marks->at = grown;
        grown[marks->n++] = (size_t)(p - text);
    }
    return TY_OK;
}

static ty_status render_turns(const ty_prompt_form *form, const ty_chat_request *r, ty_buf *out,
                              ty_prompt_marks *marks, ty_err *err) {
    const ty_template *t = ty_template_find(template_name(form, r));
    if (!t)
        return ty_fail(err, TY_EUNSUPPORTED,
                       "template \"%s\" is unknown; known are readme, serve, mplug_owl2 and "
                       "vicuna_v1",
                       r->template_name);
    ty_status st = ty_chat_request_check(r, NULL, err);
    if (st == TY_OK) st = check_videos(form, r, err);
    if (st != TY_OK) return st;
    ty_marks m = {.picture = form->placeholder, .video = form->video};
    m.at = malloc(((size_t)ty_chat_request_images(r) + 1) * sizeof *m.at);
    if (!m.at) return ty_fail(err, TY_ENOMEM, "no memory for the prompt's pictures");
    st = t->render(r, &m, out, err);
    *marks = (ty_prompt_marks){m.at, m.n};
    return st == TY_OK ? filled(out, err) : st;
}

ty_status ty_prompt_render(const ty_prompt_form *form, const ty_chat_request *r, ty_buf *out,
                           ty_prompt_marks *marks, ty_err *err) {
    ty_prompt_marks found = {0};
    ty_status st;
    if (r->prompt) {
        ty_buf_puts(out, r->prompt);
        st = filled(out, err);
        if (st == TY_OK) st = find_all(form, r->prompt, strlen(r->prompt), &found, err);
    } else {
        st = render_turns(form, r, out, &found, err);
    }
    if (marks && st == TY_OK)
        *marks = found;
    else
        free(found.at);
    return st;
}

const char *ty_prompt_stop(const ty_prompt_form *form, const ty_chat_request *r) {
    const ty_template *t = r->prompt ? NULL : ty_template_find(template_name(form, r));
    return t ? t->stop : NULL;
}

/* v1: bos once, whatever follows.  v2 tokenises each chunk with bos and takes it off the later ones
 * only where the first chunk had one, so that a prompt that begins with a picture has none in
 * front, and one in each of its texts. */
static bool wants_bos(const ty_prompt_form *form, int chunk, size_t len, bool led) {
    if (!form->bos_by_chunk) return chunk == 0;
    return len > 0 && (chunk == 0 || !led);
}

static ty_status push(int32_t id, int n, ty_ids *out, ty_err *err) {
    for (int i = 0; i < n; i++)
        if (ty_ids_push(out, id) != TY_OK) return ty_fail(err, TY_ENOMEM, "out of memory");
    return TY_OK;
}

ty_status ty_prompt_tokenize(const ty_prompt_form *form, const ty_tokenizer *t,
                             ty_tokenize_mode mode, const char *text, size_t len,
                             const ty_prompt_marks *marks, int rows, ty_ids *out, int *n_images,
                             ty_err *err) {
    const char *whole = text, *end = text + len;
    int32_t bos = ty_tokenizer_bos(t);
    bool led = false; /* the first chunk has text */
    *n_images = 0;
    for (int chunk = 0;; chunk++) {
        size_t mark_len;
        int32_t id;
        const char *from = !marks ? text : chunk < marks->n ? whole + marks->at[chunk] : end;
        const char *mark = find_mark(form, from, (size_t)(end - from), &mark_len, &id);
        size_t n = (size_t)((mark ? mark : end) - text);
        if (chunk == 0) led = n > 0;
        ty_status st = TY_OK;
        if (bos >= 0 && wants_bos(form, chunk, n, led)) st = push(bos, 1, out, err);
        if (st == TY_OK) st = ty_tokenizer_encode(t, mode, text, n, out, err);
        if (st == TY_OK && mark) st = push(id, rows, out, err);
        if (st != TY_OK || !mark) return st;
        ++*n_images;
        text = mark + mark_len;
    }
}

/* Appends text without any occurrence of `word`. */
static void put_without(const char *text, size_t len, const char *word, ty_buf *out) {
    const char *end = text + len, *hit;
    while ((hit = memmem(text, (size_t)(end - text), word, strlen(word)))) {
        ty_buf_append(out, text, (size_t)(hit - text));
        text = hit + strlen(word);
    }
    ty_buf_append(out, text, (size_t)(end - text));
}

ty_status ty_prompt_post_process(const char *text, size_t len, ty_buf *out) {
    static const char *const words[] = {
        "<unk>",          "<pad>",   "<s>",    "</s>",   "[PAD]",
        "<|endoftext|>",  "[UNK]",   "[CLS]",  "[MASK]", "<|startofpiece|>",
        "<|endofpiece|>", "[gMASK]", "[sMASK]"};
    ty_buf a = ty_buf_make(out->max), b = ty_buf_make(out->max);
    ty_buf_append(&a, text, len);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        ty_buf_reset(&b);
        put_without(a.len ? a.data : "", a.len, words[i], &b);
        ty_buf swap = a;
        a = b;
        b = swap;
    }
    const char *begin = a.len ? a.data : "";
    len = a.len;
    ty_utf8_strip(&begin, &len);
    ty_buf_append(out, begin, len);
    ty_status st = a.failed != TY_OK ? a.failed : b.failed;
    ty_buf_clear(&a);
    ty_buf_clear(&b);
    return st != TY_OK ? st : out->failed;
}

ty_status ty_prompt_post_process_code(const char *text, size_t len, ty_buf *out) {
    bool inside = false;
    for (size_t i = 0, n; i < len; i += n) {
        n = 1;
        if (len - i >= 3 && memcmp(text + i, "```", 3) == 0) {
            inside = !inside;
            n = 3;
        } else if (inside && len - i >= 2 && text[i] == '\\' && text[i + 1] == '_') {
            i++; /* the underscore alone */
        }
        ty_buf_append(out, text + i, n);
    }
    return out->failed;
}
