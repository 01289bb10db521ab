import Core
import DriverKit
import Glibc
import IO
import Synchronization

/// A capture over the network: nobody is held, and every stream is cut at one moment of the server's clock.
///
/// See `docs/decisions/0017-nats-cut.md`. Calls come one after the other; what `close` may find half done is guarded.
final class NATSCapture: CaptureSession {
  private struct State: Sendable {
    var server: JetStream?
    var mark: Mark?
    var notes: [String] = []
  }

  /// What the server said while the other stores were held.
  struct Mark: Sendable {
    var account = ""
    /// Up to and with this moment messages are in the cut.
    var moment: Timestamp
    var streams: [StreamInfo]
    /// Nothing behind these came before the moment, whatever a clock that was set back says.
    var ends: [String: Int64]
    var consumers: [String: [ConsumerInfo]]

    var position: LogPosition {
      LogPosition(
        kind: "moment", value: moment.description,
        details: [
          "account": account, "streams": String(streams.count),
          "messages": String(streams.reduce(0) { $0 + $1.messages }),
        ])
    }
  }

  private let driver: NATSDriver
  private let context: CaptureContext
  private let interruption = Interruption()
  private let state = Mutex(State())

  init(_ driver: NATSDriver, _ context: CaptureContext) { (self.driver, self.context) = (driver, context) }

  private var environment: DriverEnvironment { driver.environment }
  private var directory: String { "\(context.scratch)/nats" }

  func prepare() async throws(DriverError) {
    try await interruption.during { () async throws(DriverError) in
      let server = try await self.driver.connect(interruption: self.interruption)
      // Rights and JetStream itself are found wanting before anybody waits.
      _ = try await self.driver.asking(server) { server throws(WireError) in try server.streams() }
      self.state.withLock { $0.server = server }
    }
  }

  func hold(limit: Duration) async throws(DriverError) {}

  func mark() async throws(DriverError) -> LogPosition {
    try await interruption.during { () async throws(DriverError) in
      guard let server = self.state.withLock({ $0.server }) else {
        throw .engineFailed("mark() without prepare()", log: "")
      }
      var mark = try await self.driver.asking(server) { server throws(WireError) in try Self.look(server) }
      mark.account = self.driver.configuration.account
      self.state.withLock { [mark] in $0.mark = mark }
      return mark.position
    }
  }

  func release() async -> Bool { false }

  /// The last message of any stream is the moment. What came after it was acknowledged after this began, and what a
  /// stream got while others were looked at is told apart by its time.
  static func look(_ server: JetStream) throws(WireError) -> Mark {
    for _ in 1..<20 {
      let (mark, isWhole) = try lookOnce(server)
      if isWhole { return mark }
    }
    // Somebody makes streams all the time: those that are seen are cut all the same.
    return try lookOnce(server).0
  }

  /// - Returns: Also whether no stream was made while the others were looked at: one that was could hold the cause of what
  ///   was seen elsewhere.
  private static func lookOnce(_ server: JetStream) throws(WireError) -> (Mark, isWhole: Bool) {
    let streams = try server.streams().filter { !$0.isInMemory }
    var consumers: [String: [ConsumerInfo]] = [:]
    for stream in streams where stream.consumers > 0 {
      do throws(WireError) {
        consumers[stream.name] = try server.consumers(of: stream.name).filter(\.isDurable)
      } catch {
        guard case .api(WireError.Code.noStream, _) = error else { throw error }
      }
    }
    var ends: [String: Int64] = [:]
    let again = try server.streams().filter { !$0.isInMemory }
    for stream in again { ends[stream.name] = stream.lastSequence }
    let known = Dictionary(streams.map { ($0.name, $0.created) }) { first, _ in first }
    let mark = Mark(
      moment: streams.compactMap(\.lastTime).max() ?? Timestamp(nanoseconds: 0), streams: streams, ends: ends,
      consumers: consumers)
    return (mark, again.allSatisfy { known[$0.name] == $0.created })
  }

  // MARK: After it

  func finish() async throws(DriverError) -> CaptureResult {
    try await interruption.during { () async throws(DriverError) in try await self.copy() }
  }

  private func copy() async throws(DriverError) -> CaptureResult {
    guard let mark = state.withLock({ $0.mark }), let server = state.withLock({ $0.server }) else {
      throw .engineFailed("finish() without mark()", log: "")
    }
    let installed = try await driver.installedVersion()
    let (peer, wantsDigest, progress) = (driver.peer, context.wantsContentDigest, context.progress)
    let (contents, notes) = try await driver.withScratchServer(at: directory, interruption: interruption) {
      own throws(DriverError) in
      var contents: [String: StreamContent] = [:]
      var notes: [String] = []
      for stream in mark.streams {
        let (content, note) = try Self.copy(
          stream, of: mark, from: server, at: peer, to: own, wantsDigest: wantsDigest, progress)
        contents[stream.name] = content
        if let note { notes.append(note) }
      }
      return (contents, notes)
    }
    let streams = mark.streams.map { stream in
      let last = max(stream.lastSequence, contents[stream.name]?.last ?? 0)
      return CapturedStream(
        name: stream.name, created: stream.created, config: stream.config,
        consumers: (mark.consumers[stream.name] ?? []).map { consumer in
          let place = consumer.goesOn(behind: last)
          return .init(
            name: consumer.name, created: consumer.created, config: consumer.config, count: place.count,
            sequence: place.sequence)
        })
    }
    let account = ScratchServer.account(in: directory)
    try await environment.pool.run { () throws(DriverError) in
      for stream in streams { try StreamFiles.write(stream, in: account) }
    }
    let description = Description(account: driver.configuration.account, streams: streams, contents: contents)
    let size = try await driver.send(account, description, to: context, interruption)
    return CaptureResult(
      version: server.client.info.version, position: mark.position,
      contentDigest: wantsDigest ? try ContentDigest(streams, contents) : nil, sizeBytes: size,
      facts: ["account": driver.configuration.account, "layout": installed.description, "hold": "none"], notes: notes)
  }

  /// One stream, cut at the mark, in a server of our own.
  private static func copy(
    _ stream: StreamInfo, of mark: Mark, from server: JetStream, at peer: String, to own: JetStream,
    wantsDigest: Bool, _ progress: (Int64) -> Void
  ) throws(DriverError) -> (StreamContent, note: String?) {
    do throws(WireError) {
      let now = try server.stream(stream.name)
      guard now.created == stream.created else {
        throw .api(code: WireError.Code.noStream, "it was deleted and made anew")
      }
      try server.copy(stream, to: own, copied: progress)
    } catch {
      switch error {
      case .api(WireError.Code.noStream, let why):
        throw .logGap("stream \(stream.name) was there at the mark and is gone from \(peer): \(why)")
      case .broken(let why): throw .logGap("the copy of stream \(stream.name) from \(peer) broke off: \(why)")
      default: throw error.driverError(at: peer, doing: "the copy of stream \(stream.name)")
      }
    }
    do throws(WireError) {
      // Behind the last message that was seen there may be some that came while others were looked at.
      var late: [Int64] = []
      let end = mark.ends[stream.name] ?? stream.lastSequence
      try own.scan(stream.name, from: stream.lastSequence + 1) { message throws(WireError) in
        if message.time > mark.moment || message.sequence > end { late.append(message.sequence) }
      }
      for sequence in late {
        try own.call("STREAM.MSG.DELETE.\(stream.name)", ["seq": .integer(sequence), "no_erase": true])
      }
      var content: StreamContent
      if wantsDigest {
        content = try own.digest(of: stream.name)
      } else {
        let info = try own.stream(stream.name)
        content = StreamContent(first: info.firstSequence, last: info.lastSequence, messages: info.messages)
      }
      let missing = stream.messages - content.messages
      guard missing > 0 else { return (content, nil) }
      return (
        content,
        "stream \(stream.name): \(missing) messages that it had at the mark were acknowledged, or went by a limit, before they were copied"
      )
    } catch { throw error.driverError(at: "the proving server", doing: "stream \(stream.name)") }
  }

  func close() async {
    state.withLock { $0.server = nil }
    let directory = directory
    await environment.pool.run { try? Files.removeTree(directory) }
  }

  // MARK: Parts
}
