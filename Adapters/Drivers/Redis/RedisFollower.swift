import Core
import DriverKit
import IO
import Synchronization

extension RedisDriver {
  func follower() -> (any LogFollower)? { RedisFollower(driver: self) }
}

/// Receives a server's replication stream as a replica does, and mirrors it byte by byte.
///
/// What is acknowledged is durable, so `WAIT` waits for the repository. The stream has no times in it: on a second connection
/// the server's clock is published to a channel of ours, and comes back in the stream where it belongs.
/// `docs/decisions/0015-redis-stream.md` says why.
struct RedisFollower: LogFollower {
  let driver: RedisDriver

  /// What the server's operators see in place of an address; there can be one of the name.
  var name: String { "salvor-\(driver.configuration.store)" }
  var channel: String { TimeMessage.channel(driver.configuration.store) }

  /// After work the stream is told the time within a tenth of a second: work is seen after ``longestGathering`` at most, and
  /// then it is looked for ``look``; but not told again within ``tick``.
  static let tick: Duration = .milliseconds(75)
  static let look: Duration = .milliseconds(25)
  static let longestGathering: Duration = .milliseconds(40)
  /// How often a silent server is asked whether there is nothing.
  static let sign: Duration = .seconds(2)
  static let silence: Duration = .seconds(30)
  /// A pause of writers holds messages too.
  private static let longestPause: Duration = .seconds(120)
  private static let readBytes = 1 << 20

  // MARK: Where to begin

  /// Where the stream is asked for.
  struct Start: Sendable, Equatable {
    var file: StreamFile
    var offset: Int64
    /// Set unless the sink's log is gone on with.
    var isNew: Bool
    var why: String?
  }

  static func start(from end: LogEnd?, hint: LogCursor?, _ info: Info) throws(DriverError) -> Start {
    guard let id = info["master_replid"], StreamFile.isID(id), let offset = info.integer("master_repl_offset"),
      offset >= 0
    else { throw .engineFailed("the server doesn't tell its replication id", log: "") }
    var why: String?
    if let end {
      guard let file = StreamFile(end.cursor.file) else {
        throw .corrupt("the log's last file is called \(end.cursor.file), which is no name of its own")
      }
      let place = file.start + end.cursor.offset
      why = missing(file.replicationID, after: place, info)
      if why == nil { return Start(file: file, offset: place, isNew: false) }
    }
    if let hint, let file = StreamFile(hint.file) {
      let place = file.start + hint.offset
      if missing(file.replicationID, after: place, info) == nil {
        return Start(file: StreamFile(file.replicationID, at: place), offset: place, isNew: true, why: why)
      }
    }
    return Start(file: StreamFile(id, at: offset), offset: offset, isNew: true, why: why)
  }

  /// Why the server can't go on after an offset; `nil` if it can.
  ///
  /// Source: Redis, `replication.c`, `masterTryPartialResync`, and the fields of `INFO replication`.
  static func missing(_ id: String, after offset: Int64, _ info: Info) -> String? {
    let end = info.integer("master_repl_offset") ?? 0
    if id != info["master_replid"] {
      guard id == info["master_replid2"], let left = info.integer("second_repl_offset"), left > 0 else {
        return "the server has begun a history of its own: it came back without its replication id, or is another one"
      }
      guard offset + 1 <= left else {
        return "the server left that history at offset \(left - 1), before \(offset)"
      }
    }
    guard offset <= end else {
      return "the server's log ends at offset \(end), before \(offset): it lost what it had sent"
    }
    guard info["repl_backlog_active"] == "1", let first = info.integer("repl_backlog_first_byte_offset") else {
      return "the server keeps no backlog of its log"
    }
    guard first <= offset + 1 else {
      return "the server's backlog begins at offset \(first - 1), after \(offset)"
    }
    return nil
  }

  // MARK: Following

  func follow(from end: LogEnd?, hint: LogCursor?, into sink: any LogSink) async throws(DriverError) {
    let interruption = Interruption()
    do throws(DriverError) {
      try await interruption.during { () throws(DriverError) in
        try await session(from: end, hint: hint, into: sink, interruption)
      }
    } catch { throw Task.isCancelled ? .cancelled : error }
    if Task.isCancelled { throw .cancelled }
  }

  private func session(
    from end: LogEnd?, hint: LogCursor?, into sink: any LogSink, _ interruption: Interruption
  ) async throws(DriverError) {
    let control = try await driver.connect(interruption: interruption)
    let info = try await asked(control, "INFO")
    _ = try RedisDriver.version(info)
    guard info["cluster_enabled"] != "1" else {
      throw .unsupported("a node of a cluster can't be followed: messages do not go the way of its writes")
    }
    guard info["role"] == "master" else {
      throw .unreachable("the log of \(driver.peer): it is a replica, and is followed once it is a primary")
    }
    guard Self.places(of: name, info).isEmpty else {
      throw .unreachable("the log of \(driver.peer): another process follows it")
    }
    let start = try Self.start(from: end, hint: hint, info)
    let link = try await driver.connect(interruption: interruption)
    let number = UInt16(truncatingIfNeeded: driver.environment.randomness.next() % 65_535 + 1)
    let (name, pool) = (name, driver.environment.pool)
    let answer: ReplicationLink.Answer
    do throws(WireError) {
      answer = try await pool.run { () throws(WireError) -> ReplicationLink.Answer in
        try ReplicationLink.follow(link, name: name, number: number, start.file.replicationID, after: start.offset)
      }
    } catch { throw failure(error, doing: "PSYNC") }
    // Two that came at the same moment: the one that is listed first goes on.
    guard try await Self.places(of: name, asked(control, "INFO", "replication")).first == Int(number) else {
      throw .unreachable("the log of \(driver.peer): another process follows it")
    }
    let stream = try await begin(link, start, answer, hadEnd: end != nil, sink)
    try await run(control, link, stream, sink, interruption)
  }

  /// The numbers of those that follow under our name, in the order in which they came.
  static func places(of name: String, _ info: Info) -> [Int] {
    var result: [Int] = []
    for index in 0..<(info.integer("connected_slaves").map { min(Int($0), 1000) } ?? 0) {
      let fields = (info["slave\(index)"] ?? "").split(separator: ",")
      guard fields.contains(where: { $0 == "ip=\(name)" }) else { continue }
      let port = fields.first { $0.hasPrefix("port=") }?.dropFirst(5)
      result.append(port.flatMap { Int($0) } ?? 0)
    }
    return result
  }

  private func begin(
    _ link: Connection, _ start: Start, _ answer: ReplicationLink.Answer, hadEnd: Bool, _ sink: any LogSink
  ) async throws(DriverError) -> Stream {
    let session = Hex.encode(driver.environment.randomness.bytes(4))
    var stream = Stream(file: start.file, position: start.offset, channel: channel, session: session)
    switch answer {
    case .goesOn(let id):
      if start.isNew {
        sink.begin(
          LogBeginning(
            stream: start.file.replicationID, cursor: stream.cursor, position: stream.mark.position, why: start.why))
      }
      if id != start.file.replicationID { stream.enter(id) }
    case .full(let full):
      let why = start.isNew ? start.why : "the server would not go on after offset \(start.offset)"
      let pool = driver.environment.pool
      try await pool.run { () throws(DriverError) in try Self.drop(link, full) }
      stream = Stream(
        file: StreamFile(full.replicationID, at: full.offset), position: full.offset, channel: channel, session: session
      )
      sink.begin(
        LogBeginning(
          stream: full.replicationID, cursor: stream.cursor, position: stream.mark.position, why: hadEnd ? why : nil))
    }
    return stream
  }

  /// Lets a snapshot pass that nobody asked for.
  private static func drop(_ link: Connection, _ start: ReplicationLink.Start) throws(DriverError) {
    let source = SnapshotSource(link, start.length, copy: nil) { _, _ in }
    var buffer = [UInt8](repeating: 0, count: 1 << 20)
    do {
      while try buffer.withUnsafeMutableBytes({ try source.read(into: $0) }) > 0 {}
    } catch { throw DriverError(error) }
  }

  /// What the two connections know of each other.
  private final class Progress: Sendable {
    struct State {
      var received: Int64
      /// There is work in the stream that no message comes after.
      var isDirty = false
    }

    let state: Mutex<State>
    init(_ received: Int64) { state = Mutex(State(received: received)) }
  }

  private func run(
    _ control: Connection, _ link: Connection, _ stream: Stream, _ sink: any LogSink, _ interruption: Interruption
  ) async throws(DriverError) {
    let progress = Progress(stream.position)
    let failure = await withTaskGroup(of: DriverError?.self) { group in
      group.addTask {
        do throws(DriverError) {
          try await read(link, stream, progress, into: sink)
          return nil
        } catch { return error }
      }
      group.addTask {
        do throws(DriverError) {
          try await tellTime(control, stream, progress, sink)
          return nil
        } catch { return error }
      }
      let first = await group.next() ?? nil
      interruption.set()
      group.cancelAll()
      for await _ in group {}
      return first
    }
    if let failure { throw failure }
  }

  // MARK: The stream

  private func read(
    _ link: Connection, _ start: Stream, _ progress: Progress, into sink: any LogSink
  ) async throws(DriverError) {
    let time = driver.environment.time
    var stream = start
    var acknowledged: Int64 = -1
    var told = time.monotonicNanoseconds()
    var gathers = false
    while true {
      if Task.isCancelled { throw .cancelled }
      var isSilent = true
      if sink.hasRoom {
        let gathering = min(sink.gathering, Self.longestGathering)
        if gathers { do { try await time.sleep(for: gathering) } catch { throw .cancelled } }
        let isBehind = acknowledged < stream.position
        let bytes = try await receive(
          link, wait: isBehind ? min(gathering, .milliseconds(20)) : .milliseconds(100))
        gathers = sink.mayGather(after: bytes?.count ?? 0)
        if let bytes {
          isSilent = false
          if let chunk = try stream.take(bytes) { try sink.append(chunk) }
          let (received, isDirty) = (stream.received, stream.isDirty)
          stream.isDirty = false
          progress.state.withLock { state in
            state.received = received
            if isDirty { state.isDirty = true }
          }
        }
      } else {
        do { try await time.sleep(for: .milliseconds(20)) } catch { throw .cancelled }
      }
      let durable = sink.durable.flatMap { Int64($0.value) } ?? 0
      let now = time.monotonicNanoseconds()
      // After a snapshot without a file the stream begins with an acknowledgement.
      guard durable != acknowledged || isSilent || Duration.nanoseconds(now - told) >= .seconds(1) else { continue }
      let pool = driver.environment.pool
      do throws(WireError) {
        try await pool.run { () throws(WireError) in
          try link.socket.send(
            Connection.format("REPLCONF", "ACK", String(durable)), patience: Self.silence,
            interruption: link.interruption)
        }
      } catch { throw failure(error, doing: "REPLCONF ACK") }
      (acknowledged, told) = (durable, now)
    }
  }

  /// - Returns: `nil` if nothing came.
  private func receive(_ link: Connection, wait: Duration) async throws(DriverError) -> [UInt8]? {
    let pool = driver.environment.pool
    do throws(WireError) {
      let bytes = try await pool.run { () throws(WireError) -> [UInt8] in
        var failure: WireError?
        // Rarely are all of them needed: they are not set to zero first.
        let bytes = [UInt8](unsafeUninitializedCapacity: Self.readBytes) { buffer, count in
          do throws(WireError) {
            count = try link.socket.receive(
              into: UnsafeMutableRawBufferPointer(buffer), patience: wait, interruption: link.interruption)
          } catch { failure = error }
        }
        if let failure { throw failure }
        return bytes
      }
      guard !bytes.isEmpty else { throw WireError.broken("the server closed the link of a replica") }
      return bytes
    } catch {
      if case .silent = error { return nil }
      throw failure(error, doing: "the stream")
    }
  }

  /// Cuts what comes into the log's files, at the ends of commands.
  struct Stream: Sendable {
    /// A file has this much, and then as much as comes at once.
    static let fileBytes: Int64 = 64 << 20
    /// A command is held until it is whole.
    static let longestCommand = 2 << 30
    /// The server's signs of life are held until something else comes, but no more of them than this.
    static let heldSigns = 64 << 10

    private(set) var file: StreamFile
    /// After the last byte that was given out.
    private(set) var position: Int64
    var isDirty = false
    private let channel: String
    private let session: String
    private var splitter = StreamSplitter()
    private let base: Int64
    private var held: [UInt8] = []
    /// How many of the held bytes are whole commands, and whether they are more than signs of life.
    private var whole = 0
    private var hasWork = false
    private var completeUntil: Timestamp?
    private var follows: LogCursor?

    init(file: StreamFile, position: Int64, channel: String, session: String) {
      (self.file, self.position, self.channel, self.session) = (file, position, channel, session)
      base = position
    }

    var sessionName: String { session }
    var cursor: LogCursor { follows ?? file.cursor(at: position) }
    var received: Int64 { position + Int64(held.count) }

    var mark: LogMark {
      LogMark(
        position: LogPosition(kind: "offset", value: String(position), details: ["replid": file.replicationID]))
    }

    /// The same stream goes on under another id.
    mutating func enter(_ replicationID: String) {
      follows = cursor
      file = StreamFile(replicationID, at: position)
    }

    /// - Returns: What can be given out, if anything can.
    mutating func take(_ bytes: [UInt8]) throws(DriverError) -> LogChunk? {
      guard held.count + bytes.count <= Self.longestCommand else {
        throw .unsupported("a command of more than \(Self.longestCommand) bytes can't be followed")
      }
      let given = position - base
      held += bytes
      var (whole, hasWork, isDirty, until) = (whole, hasWork, isDirty, completeUntil)
      let (channel, session) = (channel, session)
      var failure: DriverError?
      bytes.withUnsafeBytes { raw in
        do throws(DriverError) {
          try splitter.feed(raw) { command in
            whole = Int(command.end - given)
            if command.name == "PING" { return }
            hasWork = true
            if let message = TimeMessage(command, channel: channel) {
              if message.session == session { until = message.before }
            } else if !command.isLink, !command.isMessage {
              isDirty = true
            }
          }
        } catch { failure = error }
      }
      if let failure { throw failure }
      (self.whole, self.hasWork, self.isDirty, completeUntil) = (whole, hasWork, isDirty, until)
      guard whole > 0, hasWork || whole > Self.heldSigns else { return nil }
      return give()
    }

    private mutating func give() -> LogChunk {
      let bytes: [UInt8]
      if whole == held.count {
        bytes = held
        held = []
      } else {
        bytes = Array(held[..<whole])
        held.removeFirst(whole)
      }
      (whole, hasWork) = (0, false)
      if position - file.start >= Self.fileBytes {
        follows = cursor
        file = StreamFile(file.replicationID, at: position)
      }
      let offset = position - file.start
      position += Int64(bytes.count)
      var mark = mark
      mark.completeUntil = completeUntil
      defer { (follows, completeUntil) = (nil, nil) }
      return LogChunk(file: file.name, offset: offset, bytes: bytes, follows: follows, mark: mark)
    }
  }

  // MARK: The time

  /// Publishes the server's clock while there is work, and asks how far the stream is while there is none.
  private func tellTime(
    _ control: Connection, _ stream: Stream, _ progress: Progress, _ sink: any LogSink
  ) async throws(DriverError) {
    let time = driver.environment.time
    var (number, last): (Int64, Timestamp?) = (0, nil)
    // The last message has work before it, and no other one says yet when it was published.
    var isOwed = false
    var asked = time.monotonicNanoseconds()
    var told = asked - Self.tick.wholeNanoseconds
    var moved = (received: stream.position, at: asked)
    while true {
      do { try await time.sleep(for: Self.look) } catch { throw .cancelled }
      let now = time.monotonicNanoseconds()
      let isEarly = Duration.nanoseconds(now - told) < Self.tick
      let isDirty = progress.state.withLock { state in
        defer { if !isEarly { state.isDirty = false } }
        return state.isDirty
      }
      if isDirty || isOwed {
        if isEarly { continue }
        told = now
        let before = try await clock(control)
        let message = TimeMessage(session: stream.sessionName, number: number, before: before, last: last)
        last = try await publish(message, control)
        number += 1
        isOwed = isDirty
      } else if Duration.nanoseconds(now - asked) >= Self.sign {
        asked = now
        let (clock, info) = try await standing(control)
        guard info["role"] == "master", let offset = info.integer("master_repl_offset") else {
          throw .unreachable("the log of \(driver.peer): it became a replica")
        }
        let received = progress.state.withLock { $0.received }
        if received >= offset {
          sink.note(LogMark(position: stream.mark.position, completeUntil: clock))
        }
        if received != moved.received || received >= offset { moved = (received, now) }
        guard Duration.nanoseconds(now - moved.at) < Self.silence || !sink.hasRoom else {
          throw .unreachable("the log of \(driver.peer): the stream has stood still for \(Self.silence.brief)")
        }
      }
    }
  }

  private func clock(_ control: Connection) async throws(DriverError) -> Timestamp {
    guard let time = Self.time(try await driver.call(control, "TIME", patience: Self.longestPause)) else {
      throw .engineFailed("\(driver.peer) doesn't tell its time", log: "")
    }
    return time
  }

  /// - Returns: The server's clock after it.
  private func publish(_ message: TimeMessage, _ control: Connection) async throws(DriverError) -> Timestamp {
    let commands = [["PUBLISH", channel, message.text], ["TIME"]].map { $0.map { Array($0.utf8) } }
    let replies = try await all(commands, control, doing: "PUBLISH")
    guard let time = Self.time(replies[1]) else {
      throw .engineFailed("\(driver.peer) doesn't tell its time", log: "")
    }
    return time
  }

  private func standing(_ control: Connection) async throws(DriverError) -> (Timestamp, Info) {
    let commands = [["TIME"], ["INFO", "replication"]].map { $0.map { Array($0.utf8) } }
    let replies = try await all(commands, control, doing: "INFO")
    guard let time = Self.time(replies[0]), let text = replies[1].text else {
      throw .engineFailed("\(driver.peer) doesn't tell its time", log: "")
    }
    return (time, Info(text))
  }

  private func all(
    _ commands: [[[UInt8]]], _ control: Connection, doing: String
  ) async throws(DriverError) -> [Reply] {
    let pool = driver.environment.pool
    do throws(WireError) {
      let replies = try await pool.run { () throws(WireError) -> [Reply] in
        try control.all(commands, patience: Self.longestPause)
      }
      for case .error(let text) in replies { throw WireError.refused(text) }
      return replies
    } catch { throw failure(error, doing: doing) }
  }

  private func asked(_ control: Connection, _ words: String...) async throws(DriverError) -> Info {
    let commands = [words.map { Array($0.utf8) }]
    return Info(try await all(commands, control, doing: "INFO")[0].text ?? "")
  }

  static func time(_ reply: Reply) -> Timestamp? {
    guard let parts = reply.elements, parts.count == 2, let seconds = parts[0].text.flatMap({ Int64($0) }),
      let microseconds = parts[1].text.flatMap({ Int64($0) }), (0..<4_000_000_000).contains(seconds),
      (0..<1_000_000).contains(microseconds)
    else { return nil }
    return Timestamp(seconds: seconds, nanoseconds: microseconds * 1000)
  }

  private func failure(_ error: WireError, doing: String) -> DriverError {
    if case .refused(let text) = error, text.hasPrefix("NOPERM") {
      return .permissionDenied("\(doing) at \(driver.peer)", needs: Rights.follow)
    }
    return error.driverError(at: driver.peer, doing: doing)
  }

  // MARK: Places

  func cursor(of position: LogPosition, in capture: CaptureResult, among files: [String]) -> LogCursor? {
    guard position.kind == "offset", let offset = Int64(position.value), offset >= 0 else { return nil }
    let id = position.details["replid"]
    if let id, !StreamFile.isID(id) { return nil }
    let file = files.compactMap { StreamFile($0) }.last { $0.start <= offset && (id == nil || $0.replicationID == id) }
    // Where the log begins with the position itself, it may have no byte yet.
    return (file ?? id.map { StreamFile($0, at: offset) })?.cursor(at: offset)
  }
}
