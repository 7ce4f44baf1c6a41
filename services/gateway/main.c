/* main.c - tyto-gateway: options, then gateway_create, gateway_run, gateway_destroy. */
#include "services/gateway/gateway.h"

#include "common/base/log.h"
#include "common/base/options.h"
#include "common/wire/keys.h"

#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>

static struct {
    gateway_options g;
    ty_option_list pipelines, adapters;
    const char *log_level;
} opt;

static const ty_option table[] = {
    TY_OPT_LIST_VAR(
        "pipeline", "TYTO_PIPELINES", opt.pipelines, "DIR",
        "a pipeline directory (`tyto import` makes one); its name is the API's model name; "
        "repeat for more"),
    TY_OPT_LIST_VAR("adapter", "TYTO_ADAPTERS", opt.adapters, "[MODEL+]NAME=DIR",
                    "a LoRA adapter that the decoders of MODEL have: MODEL+NAME is a model too; "
                    "MODEL may be left out when there is one pipeline; repeat for more"),
    TY_OPT_STR("connect", "TYTO_BROKER", opt.g.connect, NULL, "ENDPOINT[,...]",
               "the brokers' gateway endpoints: ipc:///path or tcp://host:port"),
    TY_WIRE_SECURITY_OPTIONS(opt.g.keys, opt.g.insecure_tcp),
    TY_OPT_STR("listen", "TYTO_LISTEN", opt.g.listen, "127.0.0.1:8080", "HOST:PORT",
               "where to serve HTTP; port 0 = any"),
    TY_OPT_FLAG("share-port", "TYTO_SHARE_PORT", opt.g.share_port,
                "let other gateways of this machine listen on the same port; the kernel spreads "
                "the connections"),
    TY_OPT_STR("port-file", NULL, opt.g.port_file, NULL, "FILE", "write the bound port there"),
    TY_OPT_NAME("name", "TYTO_GATEWAY_NAME", opt.g.name, "gateway.0", "NAME",
                "this gateway's name, the same after a restart; %h = the host's"),
    TY_OPT_STR("api-key-file", "TYTO_API_KEY_FILE", opt.g.api_key_file, NULL, "FILE",
               "API keys, one a line, plain or sha256:HEX; without it everybody may"),
    TY_OPT_STR("cache-url", "TYTO_CACHE_URL", opt.g.cache_url, "", "URL",
               "Redis where the vision stages keep their outputs: a picture that is there is not "
               "sent; none = do "
               "without"),
    TY_OPT_INT("timeout-s", "TYTO_TIMEOUT_S", opt.g.timeout_s, 600, 1, 86400,
               "deadline of a request in seconds"),
    TY_OPT_INT("part-timeout-s", "TYTO_PART_TIMEOUT_S", opt.g.part_timeout_s, 300, 1, 86400,
               "send a picture or a decode task again when nothing is heard of it for so long"),
    TY_OPT_INT("max-sends", NULL, opt.g.max_sends, 3, 1, 100, "how often such a part is sent"),
    TY_OPT_INT("max-body-mb", "TYTO_MAX_BODY_MB", opt.g.max_body_mb, 64, 1, 1024,
               "largest request in MiB"),
    TY_OPT_INT("max-connections", "TYTO_MAX_CONNECTIONS", opt.g.max_connections, 2000, 1, 1000000,
               "connections at a time; requests over more are refused with 503"),
    TY_OPT_INT("max-inflight", "TYTO_MAX_INFLIGHT", opt.g.max_in_flight, 256, 1, 65536,
               "requests at a time; more are refused with 503"),
    TY_OPT_INT("drain-s", "TYTO_DRAIN_S", opt.g.drain_s, 30, 0, 3600,
               "after SIGTERM, how long requests in flight may take"),
    TY_OPT_STR("redis-url", "TYTO_REDIS_URL", opt.g.redis_url, NULL, "URL",
               "the store of conversations and files: unix:///PATH or "
               "redis://[:PASSWORD@]HOST[:PORT][/DB]; without it, or with none, there are none"),
    TY_OPT_STR("image-hosts", "TYTO_IMAGE_HOSTS", opt.g.image_hosts, NULL, "HOST[:PORT],...",
               "fetch pictures whose address a client gives from these: NAME, *.NAME (what is "
               "under it), * (any public host); without it nothing is fetched"),
    TY_OPT_FLAG("image-private", "TYTO_IMAGE_PRIVATE", opt.g.image_private,
                "fetch from private and loopback addresses too: for a closed network"),
    TY_OPT_INT("image-timeout-s", "TYTO_IMAGE_TIMEOUT_S", opt.g.image_timeout_s, 10, 1, 3600,
               "how long fetching a picture may take"),
    TY_OPT_INT("conversation-ttl-s", "TYTO_CONVERSATION_TTL_S", opt.g.conversation_ttl_s,
               30 * 86400, 1, 10 * 366 * 86400,
               "a conversation or file that is not used for so long is forgotten"),
    TY_OPT_INT("owner-max-mb", "TYTO_OWNER_MAX_MB", opt.g.owner_max_mb, 1024, 0, 1 << 20,
               "what one API key's conversations and files may hold, in MiB; 0 = no limit"),
    TY_OPT_INT("owner-max-conversations", "TYTO_OWNER_MAX_CONVERSATIONS",
               opt.g.owner_max_conversations, 1000, 0, 1 << 20,
               "how many conversations one API key may have; 0 = no limit"),
    TY_OPT_STR("log-level", "TYTO_LOG_LEVEL", opt.log_level, "info", "LEVEL",
               "debug, info, warn or error"),
    TY_OPT_END};

/* A connection is a descriptor: as many as the system lets us have. */
static void raise_descriptor_limit(void) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0) return;
    r.rlim_cur = r.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &r) != 0) ty_warn("the limit of open files stays as it is");
}

int main(int argc, char **argv) {
    switch (ty_options_parse(table, "tyto-gateway --pipeline DIR --connect ENDPOINT [options]",
                             "The HTTP API: OpenAI's chat completions in front of a broker.", argc,
                             argv, NULL)) {
    case TY_OPTIONS_DONE: return 0;
    case TY_OPTIONS_USAGE: return 2;
    case TY_OPTIONS_GO: break;
    }
    int level = ty_log_level_parse(opt.log_level);
    if (level < 0 || !opt.g.connect || opt.pipelines.n == 0) {
        fprintf(stderr, "%s\n--help lists the options\n",
                level < 0        ? "--log-level: want debug, info, warn or error"
                : !opt.g.connect ? "--connect (or TYTO_BROKER) is missing"
                                 : "--pipeline is missing");
        return 2;
    }
    ty_log_init(opt.g.name, (ty_log_level)level);
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    opt.g.pipelines = opt.pipelines.item;
    opt.g.n_pipelines = opt.pipelines.n;
    opt.g.adapters = opt.adapters.item;
    opt.g.n_adapters = opt.adapters.n;
    ty_info(
        "version=%s listen=%s connect=%s pipelines=%d adapters=%d timeout_s=%d part_timeout_s=%d "
        "max_sends=%d max_body_mb=%d max_inflight=%d drain_s=%d api_key_file=%s store=%s "
        "conversation_ttl_s=%d owner_max_mb=%d owner_max_conversations=%d image_hosts=%s "
        "image_private=%d image_timeout_s=%d",
        TYTO_VERSION, opt.g.listen, opt.g.connect, opt.g.n_pipelines, opt.g.n_adapters,
        opt.g.timeout_s, opt.g.part_timeout_s, opt.g.max_sends, opt.g.max_body_mb,
        opt.g.max_in_flight, opt.g.drain_s, opt.g.api_key_file ? opt.g.api_key_file : "none",
        opt.g.redis_url && *opt.g.redis_url ? "yes" : "none", opt.g.conversation_ttl_s,
        opt.g.owner_max_mb, opt.g.owner_max_conversations,
        opt.g.image_hosts && *opt.g.image_hosts ? opt.g.image_hosts : "none", opt.g.image_private,
        opt.g.image_timeout_s);
    gateway *g = NULL;
    ty_err err = {0};
    ty_status st = gateway_create(&g, &opt.g, &err);
    if (st == TY_OK) st = gateway_run(g, &err);
    if (st != TY_OK) ty_error("%s: %s", ty_status_name(st), err.text);
    gateway_destroy(&g);
    return st == TY_OK ? 0 : 1;
}
