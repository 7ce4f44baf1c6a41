/*
 * prompt.c - turns to prompt text, prompt text to ids, and the web server's clean-up of answers.
 *
 * Both templates are v1's (NOTES §7).  "readme": a picture is a line of its own where it stands among
 * the parts.  "serve": what the web server sends after its rewriting step, which shows one picture in
 * front of a message's text; a second picture of a message would vanish there, so it is an error here.
 */
#include "common/model/prompt.h"

#include "common/base/utf8.h"

#include <string.h>

static const char readme_preamble[] =
    "The following is a conversation between a curious human and AI assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions.";
static const char serve_preamble[] = "The following is a conversation between a curious human and "
                                     "AI. The AI gives helpful, detailed, "
                                     "and polite answers to the human's questions.";

static void put_texts(const ty_turn *t, int begin, int end, ty_buf *out) {
    for (int i = begin; i < end; i++)
        if (!t->part[i].is_image) ty_buf_puts(out, t->part[i].text);
}

/* The system messages, one a line, instead of the template's own; an empty one stands for no
 * preamble at all. */
static void put_preamble(const ty_chat_request *r, const char *own, ty_buf *out) {
    bool replaced = false;
    size_t begin = out->len;
    for (int i = 0; i < r->n_turn; i++) {
        if (r->turn[i].role != TY_ROLE_SYSTEM) continue;
        if (replaced) ty_buf_puts(out, "\n");
        put_texts(&r->turn[i], 0, r->turn[i].n_part, out);
        replaced = true;
    }
    if (!replaced) ty_buf_puts(out, own);
    if (out->len > begin) ty_buf_puts(out, "\n");
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

/* An empty run of texts makes no line, unless it is all that the turn has. */
static void put_user_readme(const ty_turn *t, ty_buf *out) {
    if (ty_turn_images(t) == 0) {
        put_line("Human: ", t, 0, t->n_part, out);
        return;
    }
    for (int i = 0, end; i < t->n_part; i = end) {
        end = i + 1;
        if (t->part[i].is_image) {
            ty_buf_puts(out, "Human: " TY_IMAGE_PLACEHOLDER "\n");
            continue;
        }
        while (end < t->n_part && !t->part[end].is_image) end++;
        if (has_text(t, i, end)) put_line("Human: ", t, i, end, out);
    }
}

/* The text without white space around it. */
static void strip(const char **text, size_t *len) {
    uint32_t code;
    size_t n;
    while (*len && (n = ty_utf8_decode(*text, *len, &code)) && ty_utf8_is_space(code)) {
        *text += n;
        *len -= n;
    }
    while (*len) {
        for (n = 1; n < *len && n < 4 && ((unsigned char)(*text)[*len - n] & 0xC0) == 0x80;) n++;
        if (ty_utf8_decode(*text + *len - n, n, &code) != n || !ty_utf8_is_space(code)) return;
        *len -= n;
    }
}

/* Where the web server's client wrote the picture into the text it leaves its line break behind: the
 * rewriting step strips it. */
static void put_user_serve(const ty_turn *t, ty_buf *out) {
    if (ty_turn_images(t) == 0) {
        put_line("Human: ", t, 0, t->n_part, out);
        return;
    }
    ty_buf text = ty_buf_make(out->max);
    put_texts(t, 0, t->n_part, &text);
    const char *begin = text.data ? text.data : "";
    size_t len = text.len;
    strip(&begin, &len);
    ty_buf_puts(out, "Human: " TY_IMAGE_PLACEHOLDER "\n");
    if (len) {
        ty_buf_puts(out, "Human: ");
        ty_buf_append(out, begin, len);
        ty_buf_puts(out, "\n");
    }
    if (text.failed != TY_OK && out->failed == TY_OK) out->failed = text.failed;
    ty_buf_clear(&text);
}

static void put_turns(const ty_chat_request *r, bool serve, ty_buf *out) {
    for (int i = 0; i < r->n_turn; i++) {
        const ty_turn *t = &r->turn[i];
        if (t->role == TY_ROLE_ASSISTANT) put_line("AI: ", t, 0, t->n_part, out);
        if (t->role != TY_ROLE_USER) continue;
        if (serve)
            put_user_serve(t, out);
        else
            put_user_readme(t, out);
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

static ty_status filled(const ty_buf *out, ty_err *err) {
    if (out->failed == TY_OK) return TY_OK;
    return ty_fail(err, out->failed, "the prompt: %s (limit %zu bytes)",
                   ty_status_text(out->failed), out->max);
}

ty_status ty_prompt_render(const ty_chat_request *r, ty_buf *out, ty_err *err) {
    if (r->prompt) {
        ty_buf_puts(out, r->prompt);
        return filled(out, err);
    }
    if (!ty_chat_template_known(r->template_name))
        return ty_fail(err, TY_EUNSUPPORTED,
                       "template \"%s\" is unknown; known are readme and serve", r->template_name);
    bool serve = strcmp(r->template_name, "serve") == 0;
    ty_status st = ty_chat_request_check(r, NULL, err);
    if (st == TY_OK && serve) st = check_serve(r, err);
    if (st != TY_OK) return st;
    put_preamble(r, serve ? serve_preamble : readme_preamble, out);
    put_turns(r, serve, out);
    return filled(out, err);
}

static ty_status push_rows(int rows, ty_ids *out) {
    ty_status st = TY_OK;
    for (int i = 0; i < rows && st == TY_OK; i++) st = ty_ids_push(out, TY_IMAGE_ID);
    return st;
}

ty_status ty_prompt_tokenize(const ty_tokenizer *t, ty_tokenize_mode mode, const char *text,
                             size_t len, int rows, ty_ids *out, int *n_images, ty_err *err) {
    const size_t mark_len = strlen(TY_IMAGE_PLACEHOLDER);
    const char *end = text + len;
    *n_images = 0;
    ty_status st = TY_OK;
    if (ty_tokenizer_bos(t) >= 0 && ty_ids_push(out, ty_tokenizer_bos(t)) != TY_OK)
        return ty_fail(err, TY_ENOMEM, "out of memory");
    for (;;) {
        const char *mark = memmem(text, (size_t)(end - text), TY_IMAGE_PLACEHOLDER, mark_len);
        size_t chunk = (size_t)((mark ? mark : end) - text);
        st = ty_tokenizer_encode(t, mode, text, chunk, out, err);
        if (st != TY_OK || !mark) return st;
        if ((st = push_rows(rows, out)) != TY_OK) return ty_fail(err, st, "out of memory");
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
    strip(&begin, &len);
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
