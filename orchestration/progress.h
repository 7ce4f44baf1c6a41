/*
 * progress.h - how far a long command is, on stderr: a bar that moves on a terminal, and finished
 * lines alone elsewhere.
 */
#ifndef TY_PROGRESS_H
#define TY_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint64_t total, done; /* bytes */
    bool terminal, drawn;
    int64_t last_us;
} progress;

void progress_start(progress *p, uint64_t total_bytes);
/* `bytes` more are done; what: the file and tensor at work. */
void progress_add(progress *p, uint64_t bytes, const char *what);
/* A line that stays, above the bar. */
__attribute__((format(printf, 2, 3))) void progress_line(progress *p, const char *fmt, ...);
/* Wipes the bar. */
void progress_end(progress *p);

#endif
