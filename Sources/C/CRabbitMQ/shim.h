#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>

// Swift calls no function with a variable list of arguments.
static inline amqp_rpc_reply_t salvor_amqp_login(
    amqp_connection_state_t state, const char *vhost, int heartbeat, const char *user, const char *password) {
  return amqp_login(state, vhost, 0, 131072, heartbeat, AMQP_SASL_METHOD_PLAIN, user, password);
}
