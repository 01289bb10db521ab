import Core
import DriverKit

extension JetStream {
  /// What a stream holds, for digests and comparisons; reads every message, on a server of our own.
  ///
  /// Of each message in order: sequence, time, subject, headers, payload, each with its length. So it is the same before a
  /// backup and after its restore, whatever the blocks look like.
  func digest(of stream: String) throws(WireError) -> StreamContent {
    var running = RunningContent()
    try scan(stream) { message throws(WireError) in
      guard running.add(message) else { throw .garbled("messages out of order") }
    }
    return running.finish()
  }
}

/// A stream's content as it is read, or written.
struct RunningContent {
  private var running = RunningDigest()
  private(set) var content = StreamContent()

  /// - Returns: Whether it is behind the one before.
  mutating func add(_ message: StoredMessage) -> Bool {
    guard message.sequence > content.last else { return false }
    running.update("\(message.sequence) \(message.time.nanoseconds) \(message.subject.utf8.count) ")
    running.update("\(message.headers.count) \(message.payload.count)\n\(message.subject)")
    running.update(message.headers)
    running.update(message.payload)
    if content.messages == 0 { content.first = message.sequence }
    content.last = message.sequence
    content.messages += 1
    return true
  }

  mutating func finish() -> StreamContent {
    content.digest = running.finish().hex
    return content
  }
}

/// What a stream was found to hold.
struct StreamContent: Codable, Sendable, Equatable {
  var first: Int64 = 0
  var last: Int64 = 0
  var messages: Int64 = 0
  var digest = ""
}

extension ContentDigest {
  /// The scheme `jetstream-v1`: a part per stream for its messages, one for its configuration and durable consumers.
  init(_ streams: [CapturedStream], _ contents: [String: StreamContent]) throws(DriverError) {
    var parts: [String: Part] = [:]
    for stream in streams {
      let content = contents[stream.name] ?? StreamContent()
      parts[stream.name] = Part(digest: content.digest, count: content.messages)
      do {
        parts["\(stream.name) settings"] = Part(
          digest: try CanonicalJSON.digest(stream.described).hex, count: Int64(stream.consumers.count))
      } catch { throw DriverError(error) }
    }
    self.init(scheme: "jetstream-v1", parts: parts)
  }
}
