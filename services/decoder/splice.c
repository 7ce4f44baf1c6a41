#include "services/decoder/splice.h"

static bool run_starts(const int32_t *id, int i) {
    return id[i] < 0 && (i == 0 || id[i - 1] != id[i]);
}

static int count_runs(const int32_t *id, int n) {
    int runs = 0;
    for (int i = 0; i < n; i++) runs += run_starts(id, i);
    return runs;
}

ty_status splice_check(const int32_t *id, int n, int n_placeholder, const splice_pictures *p,
                       bool adjacent_ok, ty_err *err) {
    int runs = count_runs(id, n);
    if (p->n != n_placeholder && !(adjacent_ok && p->n == runs))
        return ty_fail(
            err, TY_EINVAL,
            "the prompt has %d <image> placeholder%s, but %d picture%s came with it; give "
            "one picture for each placeholder",
            n_placeholder, n_placeholder == 1 ? "" : "s", p->n, p->n == 1 ? "" : "s");
    if (runs != n_placeholder && !adjacent_ok)
        return ty_fail(
            err, TY_EINVAL,
            "%d <image> placeholders stand side by side, and the model would see only "
            "the first of such a group; put text between them, for example \"\\nHuman: \"",
            n_placeholder - runs + 1);
    return TY_OK;
}

int splice_rows(const int32_t *id, int n, const splice_pictures *p, llama_row *row) {
    int picture = -1, at = 0, visual = 0; /* at: row of the picture that comes next */
    for (int i = 0; i < n; i++) {
        row[i] = (llama_row){.id = id[i] < 0 ? 0 : id[i]};
        if (id[i] >= 0) continue;
        if (run_starts(id, i)) {
            picture++;
            at = 0;
        }
        if (picture >= p->n || at >= p->rows) continue;
        row[i].visual = p->data + ((int64_t)picture * p->rows + at++) * p->width;
        visual++;
    }
    return visual;
}
