/* A device in C99: stores positions, carries a command out, says goodbye.
 *
 *   cargo build --release -p postrider-device-sdk-c
 *   cc -std=c99 -I device-sdk/c/include device-sdk/c/examples/gateway.c \
 *      target/release/libpostrider_device.a -lpthread -ldl -lm -o gateway
 *   ./gateway 127.0.0.1:1883 truck-7 /var/lib/gateway
 *
 * It ends after the first message on dev/truck-7/cmd. */
#include <stdio.h>
#include <string.h>

#include "postrider_device.h"

#define TIMEOUT_MS 20000

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, pr_last_error());
    return 1;
}

static int run(pr_client_t *client, const char *device) {
    char topic[128];
    int i;

    snprintf(topic, sizeof topic, "dev/%s/cmd", device);
    if (pr_subscribe(client, topic, 1, TIMEOUT_MS) != PR_RESULT_OK) return failed("subscribe");

    snprintf(topic, sizeof topic, "dev/%s/telemetry/gps", device);
    for (i = 0; i < 10; i++) {
        char fix[96];
        int len = snprintf(fix, sizeof fix, "{\"ts\":%d,\"lat\":60.17,\"lon\":%.4f}", i, 24.94 + i * 0.001);
        if (pr_enqueue(client, topic, (const uint8_t *)fix, (size_t)len, TIMEOUT_MS) != PR_RESULT_OK)
            return failed("enqueue");
    }
    if (pr_queue_drain(client, TIMEOUT_MS) != PR_RESULT_OK) return failed("drain");
    puts("10 positions are with the broker");
    fflush(stdout);

    for (;;) {
        pr_event_t *event = pr_next(client, TIMEOUT_MS);
        if (event == NULL) return failed("no command");
        if (pr_event_kind(event) == PR_KIND_MESSAGE) {
            size_t len;
            const uint8_t *payload = pr_event_payload(event, &len);
            printf("%s: %.*s\n", pr_event_topic(event), (int)len, (const char *)payload);
            pr_event_free(event);
            break;
        }
        if (pr_event_kind(event) == PR_KIND_DISCONNECTED) printf("%s\n", pr_event_text(event));
        pr_event_free(event);
    }

    snprintf(topic, sizeof topic, "dev/%s/event/done", device);
    if (pr_publish(client, topic, (const uint8_t *)"{}", 2, 2, false, TIMEOUT_MS, NULL) != PR_RESULT_OK)
        return failed("publish");
    /* What cannot be is told. */
    if (pr_publish(client, "a/+/b", NULL, 0, 1, false, TIMEOUT_MS, NULL) != PR_RESULT_ARGUMENT)
        return failed("a wildcard in a topic was taken");
    printf("refused: %s\n", pr_last_error());
    return 0;
}

int main(int argc, char **argv) {
    pr_options_t *options;
    pr_client_t *client;
    int code;

    if (argc != 4) {
        fprintf(stderr, "usage: %s HOST:PORT DEVICE QUEUE-FOLDER\n", argv[0]);
        return 2;
    }
    options = pr_options_new(argv[1], argv[2]);
    if (options == NULL) return failed("options");
    if (pr_options_queue(options, argv[3], 1 << 20) != PR_RESULT_OK) return failed("queue");
    client = pr_client_start(options);
    if (client == NULL) return failed("start");
    code = run(client, argv[2]);
    if (pr_client_stop(client, TIMEOUT_MS) != PR_RESULT_OK) return failed("stop");
    return code;
}
