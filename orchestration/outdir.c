/* outdir.c - see outdir.h. */
#include "orchestration/outdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static ty_status failed(const char *path, ty_err *err) {
    return ty_fail(err, errno == ENOENT ? TY_ENOTFOUND : TY_EIO, "%s: %s", path, strerror(errno));
}

static ty_status join(const char *dir, const char *name, char *out, size_t size, ty_err *err) {
    if (snprintf(out, size, "%s/%s", dir, name) < (int)size) return TY_OK;
    return ty_fail(err, TY_EINVAL, "%.200s: path is too long", dir);
}

/* mkdir -p of everything above the last name. */
static ty_status make_parents(const char *path, ty_err *err) {
    char part[4096];
    for (size_t i = 1; path[i]; i++) {
        if (path[i] != '/') continue;
        snprintf(part, sizeof(part), "%.*s", (int)i, path);
        if (mkdir(part, 0755) != 0 && errno != EEXIST) return failed(part, err);
    }
    return TY_OK;
}

/* The files of a pipeline as import and synth write them, and what an import that was killed left. */
static bool is_ours(const char *name) {
    static const char *const names[] = {"pipeline.json", "preprocess.gguf", "vit.gguf",
                                        "abstractor.gguf", "decoder.gguf"};
    for (int i = 0; i < 5; i++) {
        size_t n = strlen(names[i]);
        if (strncmp(name, names[i], n) == 0 && (!name[n] || strncmp(name + n, ".tmp.", 5) == 0))
            return true;
    }
    return false;
}

static bool is_dots(const char *name) {
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* A directory that is there must be empty or a pipeline. */
static ty_status check_existing(const char *path, ty_err *err) {
    DIR *dir = opendir(path);
    if (!dir && errno == ENOENT) return TY_OK;
    if (!dir) return failed(path, err);
    bool empty = true, pipeline = false;
    for (struct dirent *e; (e = readdir(dir));) {
        if (is_dots(e->d_name)) continue;
        empty = false;
        pipeline |= strcmp(e->d_name, "pipeline.json") == 0;
    }
    closedir(dir);
    if (empty || pipeline) return TY_OK;
    return ty_fail(err, TY_EEXIST,
                   "%s: is there already and is no pipeline: choose another name, or empty it",
                   path);
}

ty_status outdir_begin(outdir *d, const char *path, ty_err *err) {
    char real[PATH_MAX];
    d->tmp[0] = '\0';
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    if (n == 0 || n + 32 > sizeof(d->path) || (n == 1 && *path == '/'))
        return ty_fail(err, TY_EINVAL, "\"%.200s\" cannot be the output directory", path);
    snprintf(d->path, sizeof(d->path), "%.*s", (int)n, path);
    /* A link's target is what is exchanged, and "." has a name. */
    if (realpath(d->path, real)) snprintf(d->path, sizeof(d->path), "%.4000s", real);
    ty_status st = check_existing(d->path, err);
    if (st == TY_OK) st = make_parents(d->path, err);
    if (st != TY_OK) return st;
    char tmp[4096];
    snprintf(tmp, sizeof(tmp), "%.4060s.tmp.%d", d->path, (int)getpid());
    if (mkdir(tmp, 0755) != 0) return failed(tmp, err);
    memcpy(d->tmp, tmp, sizeof(tmp));
    return TY_OK;
}

ty_status outdir_file(const outdir *d, const char *name, char *out, size_t size, ty_err *err) {
    return join(d->tmp, name, out, size, err);
}

/* Empties and removes what now lies under the temporary name: the pipeline that was replaced.  What
 * is not the pipeline's goes back to the new directory. */
static ty_status clear_old(const outdir *d, ty_err *err) {
    DIR *dir = opendir(d->tmp);
    ty_status st = dir ? TY_OK : failed(d->tmp, err);
    for (struct dirent *e; st == TY_OK && (e = readdir(dir));) {
        char from[4400], to[4400];
        if (is_dots(e->d_name)) continue;
        snprintf(from, sizeof(from), "%s/%s", d->tmp, e->d_name);
        snprintf(to, sizeof(to), "%s/%s", d->path, e->d_name);
        int rc = is_ours(e->d_name) ? unlink(from) : rename(from, to);
        if (rc != 0) st = failed(from, err);
    }
    if (dir) closedir(dir);
    if (st == TY_OK && rmdir(d->tmp) != 0) st = failed(d->tmp, err);
    return st;
}

ty_status outdir_commit(outdir *d, ty_err *err) {
    if (rename(d->tmp, d->path) == 0) { /* not there before, or empty */
        d->tmp[0] = '\0';
        return TY_OK;
    }
    if (errno != ENOTEMPTY && errno != EEXIST) return failed(d->path, err);
    if (renameat2(AT_FDCWD, d->tmp, AT_FDCWD, d->path, RENAME_EXCHANGE) != 0)
        return failed(d->path, err);
    ty_status st = clear_old(d, err);
    d->tmp[0] = '\0';
    return st;
}

void outdir_abandon(outdir *d) {
    if (!d->tmp[0]) return;
    DIR *dir = opendir(d->tmp);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char file[4400];
        snprintf(file, sizeof(file), "%s/%s", d->tmp, e->d_name);
        if (!is_dots(e->d_name)) unlink(file);
    }
    if (dir) closedir(dir);
    rmdir(d->tmp);
    d->tmp[0] = '\0';
}
