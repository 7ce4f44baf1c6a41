#include "training/train_log.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SAY_EVERY_US = 10 * 1000 * 1000, DRAW_EVERY_US = 200 * 1000, BAR = 24 };

/* Keeps the whole lines whose step is at most `step`; a line that was cut is the last and goes. */
static ty_status cut_back(const char *path, int64_t step, ty_err *err) {
    char *text = NULL;
    size_t n, keep = 0;
    ty_status st = ty_file_read(path, (size_t)4 << 30, &text, &n, err);
    if (st == TY_ENOTFOUND) return TY_OK;
    if (st != TY_OK) return st;
    for (char *line = text, *end; (end = memchr(line, '\n', n - (size_t)(line - text)));
         line = end + 1) {
        long long at;
        if (sscanf(line, "{\"step\": %lld", &at) != 1 || at > step) break;
        keep = (size_t)(end + 1 - text);
    }
    if (keep < n) st = ty_file_write_atomic(path, text, keep, err);
    free(text);
    return st;
}

ty_status train_log_open(train_log *l, const char *out, int64_t step, int64_t total, ty_err *err) {
    char path[4200];
    snprintf(path, sizeof path, "%s/log.jsonl", out);
    ty_status st = cut_back(path, step, err);
    if (st != TY_OK) return st;
    int64_t now = ty_now_us();
    *l = (train_log){fopen(path, "ae"), isatty(2) == 1, total, step, now, 0, now};
    return l->file ? TY_OK : ty_fail(err, TY_EIO, "%s: %s", path, strerror(errno));
}

static void show(train_log *l, const train_line *t, double seconds, int64_t now) {
    double rate = (double)t->tokens / seconds, gflops = t->flops / seconds / 1e9;
    double left = (double)(now - l->start_us) / 1e6 / (double)(t->step - l->first) *
                  (double)(l->total - t->step);
    if (!l->terminal) {
        ty_info("step=%lld/%lld loss=%.4f lr=%.3g tokens_per_s=%.0f gflops=%.1f eta_s=%.0f",
                (long long)t->step, (long long)l->total, t->loss, t->lr, rate, gflops, left);
        return;
    }
    char bar[BAR + 1];
    for (int i = 0; i < BAR; i++) bar[i] = i * l->total < BAR * t->step ? '#' : '.';
    bar[BAR] = 0;
    fprintf(stderr,
            "\r\033[K[%s] %lld/%lld  loss %.4f  %.0f tokens/s  %.1f GFLOP/s  %d:%02d:%02d left",
            bar, (long long)t->step, (long long)l->total, t->loss, rate, gflops, (int)(left / 3600),
            (int)(left / 60) % 60, (int)left % 60);
}

ty_status train_log_step(train_log *l, const train_line *t, ty_err *err) {
    int64_t now = ty_now_us();
    double seconds = (double)(now - l->last_us + 1) / 1e6;
    l->last_us = now;
    fprintf(l->file,
            "{\"step\": %lld, \"epoch\": %.6f, \"loss\": %.9g, \"lr\": %.9g, \"grad_norm\": %.9g, "
            "\"tokens\": %lld, "
            "\"targets\": %lld, \"skipped\": %lld, \"seconds\": %.6f, \"tokens_per_s\": %.1f, "
            "\"gflops\": %.2f}\n",
            (long long)t->step, t->epoch, t->loss, t->lr, t->grad_norm, (long long)t->tokens,
            (long long)t->targets, (long long)t->skipped, seconds, (double)t->tokens / seconds,
            t->flops / seconds / 1e9);
    if (fflush(l->file) != 0) return ty_fail(err, TY_EIO, "log.jsonl: %s", strerror(errno));
    if (now - l->shown_us < (l->terminal ? DRAW_EVERY_US : SAY_EVERY_US) && t->step < l->total)
        return TY_OK;
    l->shown_us = now;
    show(l, t, seconds, now);
    return TY_OK;
}

void train_log_close(train_log *l) {
    if (l->terminal && l->file) fputc('\n', stderr);
    if (l->file) fclose(l->file);
    l->file = NULL;
}
