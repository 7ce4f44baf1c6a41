/*
 * log.h - one line per event on stderr: `19:12:08.123 I vit[412] req=7f3a run n_patch=257 ms=38.2`.
 *
 * Used by main files, the worker life, the broker, the gateway and the supervisor.  math/ and
 * model/ never log: they return errors.  Text is key=value, with the request id wherever there is
 * one.  A line is written with one write(2), so lines of several processes do not mix.
 */
#ifndef TY_BASE_LOG_H
#define TY_BASE_LOG_H

typedef enum { TY_LOG_DEBUG, TY_LOG_INFO, TY_LOG_WARN, TY_LOG_ERROR } ty_log_level;

/* Sets the tag ("vit", "vit.1"; copied) and the lowest level written.  Call once, in main. */
void ty_log_init(const char *tag, ty_log_level lowest);
/* "debug" | "info" | "warn" | "error" -> level; -1 when it is none of them. */
int ty_log_level_parse(const char *name);

__attribute__((format(printf, 2, 3))) void ty_log(ty_log_level level, const char *fmt, ...);

#define ty_debug(...) ty_log(TY_LOG_DEBUG, __VA_ARGS__)
#define ty_info(...)  ty_log(TY_LOG_INFO, __VA_ARGS__)
#define ty_warn(...)  ty_log(TY_LOG_WARN, __VA_ARGS__)
#define ty_error(...) ty_log(TY_LOG_ERROR, __VA_ARGS__)

#endif
