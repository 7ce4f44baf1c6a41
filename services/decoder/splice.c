#include "services/decoder/splice.h"

#include "common/model/prompt.h"

/* Walks over ids: does a picture begin at id[i]?  *at counts the ids of the run so far. */
static bool begins(const int32_t *id, int i, int rows, int *at) {
    bool goes_on = id[i] < 0 && i > 0 && id[i - 1] == id[i];
    *at = goes_on ? *at + 1 : 0;
    if (id[i] >= 0) return false;
    return id[i] == TY_IMAGE_ID_V2 ? *at % (rows > 0 ? rows : 1) == 0 : *at == 0;
}

static int count_pictures(const int32_t *id, int n, int rows) {
    int pictures = 0, at = 0;
    for (int i = 0; i < n; i++) pictures += begins(id, i, rows, &at);
    return pictures;
}

ty_status splice_check(const int32_t *id, int n, int n_placeholder, const splice_pictures *p,
                       bool adjacent_ok, ty_err *err) {
    int seen = count_pictures(id, n, p->rows);
    if (p->n != n_placeholder && !(adjacent_ok && p->n == seen))
        return ty_fail(err, TY_EINVAL,
                       "the prompt has %d %s placeholder%s, but %d picture%s came with it; give "
                       "one picture for each placeholder",
                       n_placeholder, p->placeholder, n_placeholder == 1 ? "" : "s", p->n,
                       p->n == 1 ? "" : "s");
    if (seen != n_placeholder && !adjacent_ok)
        return ty_fail(
            err, TY_EINVAL,
            "%d %s placeholders stand side by side, and the model would see only "
            "the first of such a group; put text between them, for example \"\\nHuman: \"",
            n_placeholder - seen + 1, p->placeholder);
    return TY_OK;
}

int splice_rows(const int32_t *id, int n, const splice_pictures *p, llama_row *row) {
    int picture = -1, next = 0, visual = 0; /* next: row of the picture that comes */
    for (int i = 0, at = 0; i < n; i++) {
        bool new_picture = begins(id, i, p->rows, &at);
        row[i] = (llama_row){.id = id[i] < 0 ? 0 : id[i]};
        if (id[i] >= 0) continue;
        if (new_picture) {
            picture++;
            next = 0;
        }
        if (picture >= p->n || next >= p->rows) continue;
        row[i].visual = p->data + ((int64_t)picture * p->rows + next++) * p->width;
        visual++;
    }
    return visual;
}

ty_status splice_written(const int32_t *id, int n, int rows, ty_ids *out) {
    ty_status st = TY_OK;
    for (int i = 0, at = 0; i < n && st == TY_OK; i++)
        if (begins(id, i, rows, &at) || id[i] != TY_IMAGE_ID_V2) st = ty_ids_push(out, id[i]);
    return st;
}
