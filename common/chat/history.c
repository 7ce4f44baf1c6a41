/* history.c - see history.h. */
#include "common/chat/history.h"

#include <string.h>

static json_t *part_json(const ty_part *p, const char *file_id) {
    if (!p->is_image) return json_pack("{s:s, s:s}", "type", "text", "text", p->text);
    const char *type = p->is_video ? "video_file" : "image_file";
    return json_pack("{s:s, s:{s:s}}", "type", type, type, "file_id", file_id);
}

json_t *ty_chat_turn_json(const ty_turn *t, const char *const *file_id) {
    const char *role = ty_role_name(t->role);
    if (t->n_part == 1 && !t->part[0].is_image)
        return json_pack("{s:s, s:s}", "role", role, "content", t->part[0].text);
    json_t *parts = json_array();
    int picture = 0;
    for (int i = 0; parts && i < t->n_part; i++) {
        const char *id = t->part[i].is_image ? file_id[picture++] : NULL;
        if (json_array_append_new(parts, part_json(&t->part[i], id)) == 0) continue;
        json_decref(parts);
        parts = NULL;
    }
    return parts ? json_pack("{s:s, s:o}", "role", role, "content", parts) : NULL;
}

json_t *ty_chat_params_json(const ty_chat_request *r) {
    const ty_sampling *s = &r->sampling;
    json_t *o = json_pack("{s:i, s:f, s:i, s:f, s:f, s:i, s:i, s:f, s:b, s:b}", "max_tokens",
                          s->max_tokens, "temperature", s->temperature, "top_k", s->top_k, "top_p",
                          s->top_p, "repetition_penalty", s->repetition_penalty,
                          "no_repeat_ngram_size", s->no_repeat_ngram_size, "num_beams",
                          s->num_beams, "length_penalty", s->length_penalty, "early_stopping",
                          (int)s->early_stopping, "ignore_eos", (int)s->ignore_eos);
    json_t *stop = json_array();
    for (int i = 0; i < s->n_stop; i++) (void)json_array_append_new(stop, json_string(s->stop[i]));
    if (o && s->n_stop) (void)json_object_set(o, "stop", stop);
    json_decref(stop);
    if (o && *r->template_name) /* else the model's own, whichever the next turn is for */
        (void)json_object_set_new(o, "template", json_string(r->template_name));
    if (o && r->upright) (void)json_object_set_new(o, "upright", json_true());
    if (o && s->has_seed) (void)json_object_set_new(o, "seed", json_integer((json_int_t)s->seed));
    return o;
}

void ty_chat_title(const ty_chat_request *r, char *out, size_t max) {
    const char *text = "";
    for (int i = r->n_stored; i < r->n_turn && !*text; i++)
        for (int j = 0; r->turn[i].role == TY_ROLE_USER && j < r->turn[i].n_part && !*text; j++)
            if (!r->turn[i].part[j].is_image) text = r->turn[i].part[j].text;
    text += strspn(text, " \t\r\n");
    size_t n = strcspn(text, "\r\n");
    if (n >= max) n = max - 1;
    while (n && ((unsigned char)text[n] & 0xc0) == 0x80) n--; /* not inside a character */
    memcpy(out, text, n);
    out[n] = '\0';
}
