/* state.c - see state.h. */
#include "orchestration/state.h"

#include "common/base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* The longest socket name that we put into run/, with its slash. */
#define LONGEST_SOCKET "/gateways.7.sock"

int state_path(const char *dir, const char *name, char out[STATE_PATH]) {
    int n = snprintf(out, STATE_PATH, "%s/%s", dir, name);
    return n > 0 && n < STATE_PATH;
}

ty_status state_resolve(const char *given, char out[STATE_PATH], ty_err *err) {
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    char cwd[STATE_PATH] = "";
    int n;
    if (given && given[0] == '/') {
        n = snprintf(out, STATE_PATH, "%s", given);
    } else if (given && *given) {
        if (!getcwd(cwd, sizeof(cwd)))
            return ty_fail(err, TY_EIO, "the working directory: %s", strerror(errno));
        n = snprintf(out, STATE_PATH, "%s/%s", cwd, given);
    } else if (xdg && xdg[0] == '/' && access(xdg, W_OK) == 0) {
        n = snprintf(out, STATE_PATH, "%s/tyto", xdg);
    } else {
        n = snprintf(out, STATE_PATH, "/tmp/tyto-%u", (unsigned)getuid());
    }
    /* room for "/log/NAME.log" and the like */
    if (n < 0 || n + 256 >= STATE_PATH)
        return ty_fail(err, TY_EINVAL, "the state directory's path is too long (%d bytes)", n);
    return TY_OK;
}

ty_status state_private_dir(const char *dir, ty_err *err) {
    char path[STATE_PATH];
    snprintf(path, sizeof(path), "%s", dir);
    for (char *p = path + 1; *p; p++) {
        if (*p != '/') continue;
        *p = '\0';
        if (mkdir(path, 0755) != 0 && errno != EEXIST)
            return ty_fail(err, TY_EIO, "mkdir %s: %s", path, strerror(errno));
        *p = '/';
    }
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return ty_fail(err, TY_EIO, "mkdir %s: %s", path, strerror(errno));
    struct stat sb;
    if (stat(path, &sb) != 0) return ty_fail(err, TY_EIO, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(sb.st_mode)) return ty_fail(err, TY_EIO, "%s is not a directory", path);
    if (sb.st_uid != getuid())
        return ty_fail(err, TY_EAUTH, "%s belongs to user %u; choose another with --state DIR",
                       path, (unsigned)sb.st_uid);
    return TY_OK;
}

static void remove_files(const char *dir) {
    DIR *d = opendir(dir);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            (void)unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
}

/* A socket's path must fit sockaddr_un: a deep STATE keeps its sockets in a short place. */
static ty_status choose_run_dir(state_dir *s, ty_err *err) {
    if (strlen(s->dir) + strlen("/run" LONGEST_SOCKET) <
        sizeof(((struct sockaddr_un *)0)->sun_path)) {
        (void)state_path(s->dir, "run", s->run);
        return state_private_dir(s->run, err);
    }
    /* named by the state directory's inode, so that the next owner finds and cleans it */
    struct stat sb;
    if (stat(s->dir, &sb) != 0) return ty_fail(err, TY_EIO, "%s: %s", s->dir, strerror(errno));
    snprintf(s->run, sizeof(s->run), "/tmp/tyto-run-%u-%llx-%llx", (unsigned)getuid(),
             (unsigned long long)sb.st_dev, (unsigned long long)sb.st_ino);
    return state_private_dir(s->run, err);
}

static struct flock whole_file(short type) {
    return (struct flock){.l_type = type, .l_whence = SEEK_SET};
}

enum { EARLIER_LIFE_S = 15 };

/*
 * Who owns the directory has the file's fcntl lock, which ends with that process.  Its flock ends with the last one that
 * has the descriptor: the services inherit it (supervisor.c).  Those of an owner that was killed are dying too, but a large one
 * keeps its ports for a while, and ours would start in vain as often as the supervisor lets them.
 */
static ty_status await_earlier_life(int fd, const char *path, ty_err *err) {
    int64_t until = ty_now_us() + EARLIER_LIFE_S * INT64_C(1000000);
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return ty_fail(err, TY_EIO, "lock %s: %s", path, strerror(errno));
        if (ty_now_us() > until)
            return ty_fail(
                err, TY_EEXIST,
                "processes of a `tyto up` that was killed still have %s open; end them (`fuser %s` "
                "names them), or choose another directory with --state",
                path, path);
        usleep(20000);
    }
    return TY_OK;
}

/* Takes the lock on STATE/lock.  The file is removed by an owner that ends in order, perhaps between
 * our open and our lock: then the lock is on a file that nobody else sees, and we try again. */
static ty_status take_lock(state_dir *s, ty_err *err) {
    char path[STATE_PATH];
    if (!state_path(s->dir, "lock", path)) return ty_fail(err, TY_EINVAL, "path too long");
    for (;;) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0) return ty_fail(err, TY_EIO, "open %s: %s", path, strerror(errno));
        struct flock lock = whole_file(F_WRLCK);
        if (fcntl(fd, F_SETLK, &lock) != 0) {
            int why = errno;
            close(fd);
            pid_t pid = 0;
            if (why != EACCES && why != EAGAIN)
                return ty_fail(err, TY_EIO, "lock %s: %s", path, strerror(why));
            if (state_owner(s->dir, &pid, NULL) != TY_OK) continue; /* it has just gone */
            return ty_fail(err, TY_EEXIST,
                           "%s is in use by a running `tyto up` (pid %d); stop it with `tyto down "
                           "--state %s`, or choose another directory with --state",
                           s->dir, (int)pid, s->dir);
        }
        struct stat ours, named;
        if (fstat(fd, &ours) == 0 && stat(path, &named) == 0 && ours.st_ino == named.st_ino &&
            ours.st_dev == named.st_dev) {
            s->lock_fd = fd; /* state_release closes it */
            return await_earlier_life(fd, path, err);
        }
        close(fd);
    }
}

static void remove_leftovers(state_dir *s) {
    char path[STATE_PATH];
    if (state_path(s->dir, "status.json", path)) (void)unlink(path);
    if (s->run[0]) remove_files(s->run);
}

ty_status state_acquire(state_dir *s, const char *dir, ty_err *err) {
    *s = (state_dir){.lock_fd = -1};
    snprintf(s->dir, sizeof(s->dir), "%s", dir);
    char log[STATE_PATH];
    if (!state_path(dir, "log", log)) return ty_fail(err, TY_EINVAL, "%s: path too long", dir);
    ty_status st = state_private_dir(dir, err);
    if (st == TY_OK) st = take_lock(s, err);
    if (st == TY_OK) st = state_private_dir(log, err);
    if (st == TY_OK) st = choose_run_dir(s, err);
    if (st == TY_OK) remove_leftovers(s);
    if (st != TY_OK) state_release(s);
    return st;
}

void state_release(state_dir *s) {
    if (s->lock_fd < 0) return;
    char path[STATE_PATH];
    remove_leftovers(s);
    if (s->run[0]) (void)rmdir(s->run);
    if (state_path(s->dir, "lock", path)) (void)unlink(path);
    close(s->lock_fd);
    s->lock_fd = -1;
}

static int remove_entry(const char *path, const struct stat *sb, int kind, struct FTW *ftw) {
    (void)sb, (void)kind, (void)ftw;
    (void)remove(path);
    return 0;
}

void state_remove(const char *dir, bool keep_logs) {
    char log[STATE_PATH], data[STATE_PATH];
    if (!state_path(dir, "log", log) || !state_path(dir, "data", data)) return;
    (void)nftw(data, remove_entry, 8, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    if (!keep_logs) remove_files(log);
    (void)rmdir(log); /* both fail when something is left in them, as they should */
    (void)rmdir(dir);
}

ty_status state_owner(const char *dir, pid_t *pid, ty_err *err) {
    char path[STATE_PATH];
    if (!state_path(dir, "lock", path)) return ty_fail(err, TY_EINVAL, "%s: path too long", dir);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno != ENOENT && errno != ENOTDIR)
        return ty_fail(err, TY_EIO, "open %s: %s", path, strerror(errno));
    struct flock lock = whole_file(F_WRLCK);
    int rc = fd < 0 ? 0 : fcntl(fd, F_GETLK, &lock);
    int why = errno;
    if (fd >= 0) close(fd);
    if (rc != 0) return ty_fail(err, TY_EIO, "%s: %s", path, strerror(why));
    if (fd < 0 || lock.l_type == F_UNLCK)
        return ty_fail(err, TY_ENOTFOUND, "not running: no `tyto up` owns %s", dir);
    *pid = lock.l_pid;
    return TY_OK;
}
