import Core
import DriverKit

extension JetStream {
  /// Reads a stream's messages in order from `first` on; on a server of our own only, since it makes a consumer.
  func scan(
    _ stream: String, from first: Int64 = 1, _ body: (StoredMessage) throws(WireError) -> Void
  ) throws(WireError) {
    let info = try self.stream(stream)
    guard info.messages > 0, info.lastSequence >= first else { return }
    let made = try call(
      "CONSUMER.CREATE.\(stream)",
      [
        "stream_name": .string(stream),
        "config": [
          "deliver_policy": "by_start_sequence", "opt_start_seq": .integer(max(1, first)), "ack_policy": "none",
          "replay_policy": "instant", "mem_storage": true, "num_replicas": 1,
        ],
      ])
    guard let consumer = made["name"]?.string, StreamInfo.isName(consumer) else { throw .garbled("a consumer's name") }
    // A damaged message is never delivered: then the batch ends without it, and says so.
    var pending = made["num_pending"]?.integer ?? 0
    while pending > 0 {
      let inbox = client.newInbox()
      let batch = min(256, pending)
      try client.publish(
        "$JS.API.CONSUMER.MSG.NEXT.\(stream).\(consumer)", reply: inbox,
        Array("{\"batch\":\(batch),\"expires\":5000000000}".utf8))
      var count: Int64 = 0
      while count < batch {
        let message = try client.next()
        // Messages of a batch come under their own subjects; what comes to the inbox itself says that there are none.
        guard let reply = message.reply, reply.hasPrefix("$JS.ACK.") else {
          guard message.subject == inbox else { continue }
          throw .garbled("a batch broke off with \(message.status ?? 0)")
        }
        let words = reply.split(separator: ".")
        // $JS.ACK.[domain.account.]stream.consumer.deliveries.sequence.count.time.pending
        let base = words.count >= 11 ? 2 : 0
        guard words.count >= 9 + base, let sequence = Int64(words[5 + base]), let time = Int64(words[7 + base]),
          let rest = Int64(words[8 + base])
        else { throw .garbled("where a message stands in its stream") }
        count += 1
        pending = rest
        try body(
          StoredMessage(
            sequence: sequence, time: Timestamp(nanoseconds: time), subject: message.subject,
            headers: message.headers, payload: message.payload))
        if rest == 0 { break }
      }
    }
    try call("CONSUMER.DELETE.\(stream).\(consumer)")
  }

  /// Copies a stream's messages to a server of our own, under a configuration that takes nothing away from it.
  ///
  /// The server's own snapshot, chunk by chunk: each is acknowledged once the other side has it, so neither side's memory
  /// grows. A snapshot's consumers are left out: what they have acknowledged since the mark is not part of it.
  ///
  /// - Parameter copied: Told how many bytes came.
  func copy(
    _ stream: StreamInfo, to other: JetStream, copied: (Int64) -> Void
  ) throws(WireError) {
    let neutral = StreamFiles.neutral(
      CapturedStream(name: stream.name, created: stream.created, config: stream.config, consumers: []))
    let (answers, chunks) = (client.newInbox(), client.newInbox())
    let size = min(131_072, client.info.max_payload ?? 131_072)
    let request: JSONValue = [
      "deliver_subject": .string(chunks), "no_consumers": true, "chunk_size": .integer(Int64(size)),
    ]
    guard let body = try? CanonicalJSON.encode(request) else { throw .garbled("STREAM.SNAPSHOT") }
    try client.publish("$JS.API.STREAM.SNAPSHOT.\(stream.name)", reply: answers, body)
    var target: String?
    var total: Int64 = 0
    while true {
      let message = try client.next(patience: .seconds(60))
      if message.subject == answers {
        if message.status == 503 { throw .noResponders }
        let answer = try Self.value(message.payload)
        guard let state = answer["state"], target == nil else { throw .garbled("a snapshot's begin") }
        let begun = try other.call(
          "STREAM.RESTORE.\(stream.name)", ["config": .object(neutral), "state": state])
        target = begun["deliver_subject"]?.string
        continue
      }
      guard message.subject == chunks else { continue }
      if let status = message.status, status != 204 {
        throw .broken("the snapshot of \(stream.name) broke off: \(status)")
      }
      guard let target else { throw .garbled("a snapshot before its begin") }
      if message.payload.isEmpty {
        try other.finish(target)
        return
      }
      let answer = try other.client.request(target, message.payload, patience: .seconds(60))
      if !answer.payload.isEmpty { _ = try Self.value(answer.payload) }
      total += Int64(message.payload.count)
      copied(total)
      if let reply = message.reply { try client.publish(reply) }
    }
  }

  private func finish(_ target: String) throws(WireError) {
    // The server reads the whole stream before it answers.
    let answer = try client.request(target, [], patience: .seconds(24 * 3600))
    _ = try Self.value(answer.payload)
  }
}
