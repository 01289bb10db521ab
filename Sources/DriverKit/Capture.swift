import Core
import IO

/// What a capture is given.
package struct CaptureContext: Sendable {
  /// Where the copy goes. Paths are relative; the engine puts them below the store's own directory.
  package var sink: any TreeSink
  /// An empty directory for temporary files on this machine; removed afterwards.
  package var scratch: String
  /// Compute ``CaptureResult/contentDigest`` (reads everything once more in some engines).
  package var wantsContentDigest: Bool
  /// Told how many bytes have gone into the sink, now and then.
  package var progress: @Sendable (_ doneBytes: Int64) -> Void
  /// The newest copy of the store where the sink writes to, for drivers that can tell what changed since; `nil` if there is
  /// none. What it throws is no reason for a capture to fail.
  package var earlier: @Sendable () async throws(AnyFailure) -> EarlierCapture?

  package init(
    sink: any TreeSink, scratch: String, wantsContentDigest: Bool = true,
    progress: @escaping @Sendable (_ doneBytes: Int64) -> Void = { _ in },
    earlier: @escaping @Sendable () async throws(AnyFailure) -> EarlierCapture? = { () throws(AnyFailure) in nil }
  ) {
    (self.sink, self.scratch, self.wantsContentDigest, self.progress) = (sink, scratch, wantsContentDigest, progress)
    self.earlier = earlier
  }
}

/// A copy from before, of which a capture may take over what did not change.
package struct EarlierCapture: Sendable {
  package var result: CaptureResult
  package var tree: any EarlierTree
  /// The store's log as it was followed, from a position on; `nil` if that is not in it.
  package var log: @Sendable (LogPosition) async throws(AnyFailure) -> (any LogSource)?

  package init(
    result: CaptureResult, tree: any EarlierTree,
    log: @escaping @Sendable (LogPosition) async throws(AnyFailure) -> (any LogSource)? = { _ throws(AnyFailure) in nil
    }
  ) {
    (self.result, self.tree, self.log) = (result, tree, log)
  }
}

/// Makes a store's writers wait, names where it stands, and lets them go.
///
/// Calls come in this order: `prepare` once, then `hold`, `mark`, `release`, these three as often as wanted, and `close` at
/// the end whatever happened, also after a cancellation. Across a group every `prepare` ends before any `hold` begins,
/// every `hold` before any `mark`, every `mark` before any `release`. After any of them has failed only `release` and
/// `close` may come.
///
/// A store that isn't ``HoldSupport/held(how:)`` gets the same calls: its `hold` and `release` do nothing and its mark says
/// where it stood.
package protocol MarkSession: Sendable {
  /// Everything that can be done before anyone has to wait: connect, copy what may be copied ahead.
  func prepare() async throws(DriverError)

  /// Makes writers wait. Returns once no write can be acknowledged any more.
  ///
  /// The store must let go by itself if this process dies or `limit` passes without `release`: a lock that goes with the
  /// connection, a server-side timeout. After a throw nobody waits.
  ///
  /// - Parameter limit: How long writers may wait at most, this call and the hold itself together.
  /// - Throws: ``DriverError/holdTimeout(_:)`` if it would take longer, ``DriverError/holdImpossible(_:)``.
  func hold(limit: Duration) async throws(DriverError)

  /// Names the position of the cut: all that was acknowledged before `hold` returned is at or before it.
  func mark() async throws(DriverError) -> LogPosition

  /// Lets writers go on. Never throws: what can't be released by asking is released by closing the connection.
  ///
  /// - Returns: Whether the hold was still in force. `false` means that it had lapsed (a limit, a lost connection): the
  ///   store may have moved after the mark and is not in the cut. Also `false` if there was none, whatever the traits said.
  func release() async -> Bool

  /// Frees everything: connections, pinned snapshots, replication slots, temporary files. Safe to call twice.
  func close() async
}

/// One capture of one store, from before the hold until the copy is whole. `hold`, `mark` and `release` come once, then
/// `finish`.
package protocol CaptureSession: MarkSession {
  /// Streams what remains, so that the sink holds the state at the mark.
  func finish() async throws(DriverError) -> CaptureResult
}

/// Where in its own history a store stands, in the engine's own terms.
package struct LogPosition: Hashable, Sendable, Codable, CustomStringConvertible {
  /// What `value` is: `lsn`, `offset`, `frame`, `listing`.
  package var kind: String
  /// The engine's own spelling, such as `0/3000148`.
  package var value: String
  /// Anything a restore needs beside it: timeline, replication id, WAL salts.
  package var details: [String: String]

  package init(kind: String, value: String, details: [String: String] = [:]) {
    (self.kind, self.value, self.details) = (kind, value, details)
  }

  package var description: String { "\(kind) \(value)" }
}

/// A digest of what a store says, not of how it is laid out: the same before a backup and after its restore.
package struct ContentDigest: Hashable, Sendable, Codable {
  /// Names the algorithm, so that unlike is never compared with unlike: `sqlite-rows-v1`.
  package var scheme: String
  /// Per table, keyspace or directory: a digest and how many rows, keys or files.
  package var parts: [String: Part]

  package struct Part: Hashable, Sendable, Codable {
    package var digest: String
    package var count: Int64

    package init(digest: String, count: Int64) { (self.digest, self.count) = (digest, count) }
  }

  package init(scheme: String, parts: [String: Part]) { (self.scheme, self.parts) = (scheme, parts) }

  /// The names of the parts that differ, or are on one side only; sorted.
  package func differences(from other: ContentDigest) -> [String] {
    Set(parts.keys).union(other.parts.keys).filter { parts[$0] != other.parts[$0] }.sorted()
  }
}

/// What a finished capture is, as far as the driver knows.
package struct CaptureResult: Sendable, Equatable, Codable {
  /// The engine's version, which the restore's engine must match as the driver's documentation says.
  package var version: String
  /// The position the content is at; the mark's, unless the store was outside the cut.
  package var position: LogPosition
  package var contentDigest: ContentDigest?
  /// Bytes streamed into the sink.
  package var sizeBytes: Int64
  /// What a restore by hand or by the driver needs to know; goes with the snapshot, never a secret.
  package var facts: [String: String]
  /// What was noticed and is worth telling, such as files that changed while they were read.
  package var notes: [String]

  package init(
    version: String, position: LogPosition, contentDigest: ContentDigest? = nil, sizeBytes: Int64,
    facts: [String: String] = [:], notes: [String] = []
  ) {
    self.version = version
    self.position = position
    self.contentDigest = contentDigest
    self.sizeBytes = sizeBytes
    self.facts = facts
    self.notes = notes
  }
}
