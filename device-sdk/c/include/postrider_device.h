/* Postrider's device library for C99. Generated from device-sdk/c/src: do not edit. */

#ifndef POSTRIDER_DEVICE_H
#define POSTRIDER_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 How a call ended.
 */
typedef enum {
  /*
   It did what it says.
   */
  PR_RESULT_OK = 0,
  /*
   An argument is null, no UTF-8 or out of range.
   */
  PR_RESULT_ARGUMENT = -1,
  /*
   The time was over. What was handed over before goes on: a publish may still arrive.
   */
  PR_RESULT_TIMEOUT = -2,
  /*
   The broker refused.
   */
  PR_RESULT_REFUSED = -3,
  /*
   There is no room: the disk queue is full, or too much waits.
   */
  PR_RESULT_FULL = -4,
  /*
   A file, a socket or the disk queue failed.
   */
  PR_RESULT_IO = -5,
  /*
   The client was stopped.
   */
  PR_RESULT_ENDED = -6,
} pr_result;

/*
 Kinds of events.
 */
typedef enum {
  /*
   Something that this version of the header does not know.
   */
  PR_KIND_OTHER = 0,
  /*
   A message arrived; see pr_event_topic(), pr_event_payload() and pr_event_seq().
   */
  PR_KIND_MESSAGE = 1,
  /*
   The connection is up.
   */
  PR_KIND_CONNECTED = 2,
  /*
   The connection, or an attempt at one, failed; it is tried again. See pr_event_text().
   */
  PR_KIND_DISCONNECTED = 3,
  /*
   The broker refused the connection; it is tried again. See pr_event_text().
   */
  PR_KIND_REFUSED = 4,
} pr_kind;

/*
 A client; see pr_client_start().
 */
typedef struct pr_client_t pr_client_t;

/*
 Something that happened; see pr_next().
 */
typedef struct pr_event_t pr_event_t;

/*
 How to reach a broker; see pr_options_new().
 */
typedef struct pr_options_t pr_options_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Starts a client and frees `options`, also if it fails. It connects, and connects again for ever; take its events with pr_next().
 Null if it cannot be started. Freed by pr_client_stop().

 # Safety
 `options` is null or from pr_options_new(), and not used any more.
 */
pr_client_t *pr_client_start(pr_options_t *options);

/*
 Says goodbye to the broker and frees the client. A goodbye that takes longer than `timeout_ms` is left out.

 # Safety
 `stopped` is null or from pr_client_start(), and nobody uses it any more.
 */
pr_result pr_client_stop(pr_client_t *stopped,
                         uint32_t timeout_ms);

/*
 Publishes and waits for the broker: its acknowledgement at QoS 1 and 2, written to the socket at QoS 0. Waits through
 reconnects. `seq`, if not null, gets the number of a message in a conversation, else 0.

 # Safety
 `publisher` is from pr_client_start(), `topic` a text, `payload` has `payload_len` bytes, `seq` is null or a place to write to.
 */
pr_result pr_publish(const pr_client_t *publisher,
                     const char *topic,
                     const uint8_t *payload,
                     uintptr_t payload_len,
                     uint8_t qos_level,
                     bool retain,
                     uint32_t timeout_ms,
                     uint64_t *seq);

/*
 Stores a message in the disk queue, from where it goes to the broker at QoS 1 when there is a connection. Returns when it is on the
 disk: then it survives a power cut.

 # Safety
 `publisher` is from pr_client_start(), `topic` a text, `payload` has `payload_len` bytes.
 */
pr_result pr_enqueue(const pr_client_t *publisher,
                     const char *topic,
                     const uint8_t *payload,
                     uintptr_t payload_len,
                     uint32_t timeout_ms);

/*
 Waits until the broker has acknowledged everything in the disk queue.

 # Safety
 `publisher` is from pr_client_start().
 */
pr_result pr_queue_drain(const pr_client_t *publisher, uint32_t timeout_ms);

/*
 Subscribes to a filter and waits for the broker; its messages come from pr_next().

 # Safety
 `subscriber` is from pr_client_start(), `filter` a text.
 */
pr_result pr_subscribe(const pr_client_t *subscriber,
                       const char *filter,
                       uint8_t qos_level,
                       uint32_t timeout_ms);

/*
 Unsubscribes from a filter and waits for the broker.

 # Safety
 `subscriber` is from pr_client_start(), `filter` a text.
 */
pr_result pr_unsubscribe(const pr_client_t *subscriber, const char *filter, uint32_t timeout_ms);

/*
 Waits for the next event; null if none came in `timeout_ms` or the client has ended, which pr_last_error() tells. A program must
 take its events: while 256 wait, nothing is read from the broker. Freed by pr_event_free().

 # Safety
 `listener` is from pr_client_start().
 */
pr_event_t *pr_next(const pr_client_t *listener,
                    uint32_t timeout_ms);

/*
 Frees an event; null is allowed.

 # Safety
 `event` is null or from pr_next(), and not used any more.
 */
void pr_event_free(pr_event_t *event);

/*
 Says what an event is; null is none that is known.

 # Safety
 `event` is null or from pr_next().
 */
pr_kind pr_event_kind(const pr_event_t *event);

/*
 The topic of a message, else an empty text. Valid until the event is freed.

 # Safety
 `event` is null or from pr_next().
 */
const char *pr_event_topic(const pr_event_t *event);

/*
 Why, in words, for events that have a reason, else an empty text. Valid until the event is freed.

 # Safety
 `event` is null or from pr_next().
 */
const char *pr_event_text(const pr_event_t *event);

/*
 The payload of a message, its length in `len`; null and 0 if there is none. Valid until the event is freed.

 # Safety
 `event` is null or from pr_next(), `len` a place to write to.
 */
const uint8_t *pr_event_payload(const pr_event_t *event,
                                uintptr_t *len);

/*
 The number of a message in its conversation, 0 if it has none.

 # Safety
 `event` is null or from pr_next().
 */
uint64_t pr_event_seq(const pr_event_t *event);

/*
 Says in words why the last call on this thread failed; empty if none did. Valid until the next call on this thread.
 */
const char *pr_last_error(void);

/*
 Makes options for an MQTT 5 session that the broker keeps for an hour. `address` is `host:port`. Null where an argument is
 no text. Freed by pr_client_start() or pr_options_free().

 # Safety
 Both arguments are null or texts that end with a NUL.
 */
pr_options_t *pr_options_new(const char *address,
                             const char *client_id);

/*
 Frees options that no client was started with; null is allowed.

 # Safety
 `options` is null or from pr_options_new(), and not used any more.
 */
void pr_options_free(pr_options_t *options);

/*
 Sets the user name and the password; the password may hold any bytes.

 # Safety
 `options` is from pr_options_new(), `username` a text, `password` has `password_len` bytes.
 */
pr_result pr_options_credentials(pr_options_t *options,
                                 const char *username,
                                 const uint8_t *password,
                                 uintptr_t password_len);

/*
 Turns TLS on. `ca_file`: PEM of the authorities to trust, null for the system's. `cert_file` and `key_file`: PEM of the client's
 certificate and key, both null for none.

 # Safety
 `options` is from pr_options_new(), the others are null or texts.
 */
pr_result pr_options_tls(pr_options_t *options,
                         const char *ca_file,
                         const char *cert_file,
                         const char *key_file);

/*
 Gives the client a disk queue for pr_enqueue() in the folder `dir`, of at most `bytes_max` bytes.

 # Safety
 `options` is from pr_options_new(), `dir` a text.
 */
pr_result pr_options_queue(pr_options_t *options, const char *dir, uint64_t bytes_max);

/*
 Sets the Keep Alive in seconds; 0 = off.

 # Safety
 `options` is from pr_options_new().
 */
pr_result pr_options_keep_alive(pr_options_t *options, uint16_t seconds);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* POSTRIDER_DEVICE_H */
