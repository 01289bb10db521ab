import Core
import DriverKit
import IO
import Synchronization

extension MariaDBDriver {
  func follower() -> (any LogFollower)? { MariaDBFollower(driver: self) }
}

/// Receives a server's binary log as a replica does, file by file.
///
/// Nothing on the server keeps log for us; what it removed before we had it is a gap. Where commits wait for replicas
/// (semi-synchronous replication) they wait until the sink is durable, if the store says that we count as one.
struct MariaDBFollower: LogFollower {
  let driver: MariaDBDriver

  private static let readBytes = 1 << 20
  /// It says twice in this time that it lives, if nothing else.
  private static let silence = Duration.seconds(20)

  /// For whoever lists the server's connections, and for the lock that keeps a second follower out.
  var name: String { "salvor-follow-" + driver.store.text }

  /// The number we have as a replica; the server ends the log of another that has the same.
  var replica: UInt32 {
    let digest = Array(name.utf8).withUnsafeBytes { CRC32.of($0) }
    // The upper half: people count from 1.
    return digest | 0x8000_0000
  }

  func follow(from end: LogEnd?, hint: LogCursor?, into sink: any LogSink) async throws(DriverError) {
    let control = try await driver.connect()
    let result: Result<Void, DriverError>
    do throws(DriverError) {
      let server = try await identify(control)
      try await take(control)
      try await follow(server, control, from: end, hint: hint, into: sink)
      result = .success(())
    } catch { result = .failure(error) }
    await control.close()
    if Task.isCancelled { throw .cancelled }
    try result.get()
  }

  // MARK: The server

  struct Server: Sendable {
    var identifier: UInt32
    /// Where the names of its files are listed.
    var index: String

    /// Whose log it is, as far as it can be told: a server has no other name that stays.
    var stream: String { MariaDBFollower.stream(of: String(identifier)) }
  }

  static func stream(of serverID: String) -> String { "server-\(serverID)" }

  /// Asks nothing that waits for whoever writes to the log: that may be waiting for us.
  private func identify(_ control: Connection) async throws(DriverError) -> Server {
    do throws(StatementFailure) {
      let row = try await control.row(
        """
        SELECT VERSION(), @@GLOBAL.log_bin, @@GLOBAL.binlog_format, @@GLOBAL.encrypt_binlog, @@GLOBAL.server_id,
        @@GLOBAL.log_bin_index, @@GLOBAL.log_slave_updates, @@GLOBAL.gtid_slave_pos
        """, 8)
      guard row[0]?.contains("MariaDB") == true else {
        throw StatementFailure(code: 1, message: "the server is '\(row[0] ?? "")'; only MariaDB's log can be followed")
      }
      let cluster = try await control.run("SHOW GLOBAL VARIABLES LIKE 'wsrep_on'").rows.first?.last ?? nil
      let facts = ServerFacts(
        version: "",
        variables: [
          "log_bin": row[1] == "1" ? "ON" : "OFF", "binlog_format": row[2] ?? "",
          "encrypt_binlog": row[3] == "1" ? "ON" : "OFF", "log_slave_updates": row[6] == "1" ? "ON" : "OFF",
          "gtid_slave_pos": row[7] ?? "", "wsrep_on": cluster ?? "OFF",
        ], engines: [:], binlogFilters: false)
      if case .outside(let why) = facts.hold { throw StatementFailure(code: 1, message: why) }
      guard let identifier = row[4].flatMap({ UInt32($0) }), identifier != replica, let index = row[5] else {
        throw StatementFailure(code: 1, message: "the server's server_id is \(row[4] ?? "none"): give it another")
      }
      try await control.run("SET SESSION time_zone = '+00:00'")
      return Server(identifier: identifier, index: index)
    } catch {
      if error.code == 1 { throw .unsupported(error.message) }
      throw error.followingError
    }
  }

  /// One process follows a store; the lock goes with the connection.
  private func take(_ control: Connection) async throws(DriverError) {
    do throws(StatementFailure) {
      let got = try await control.value("SELECT GET_LOCK(\(RowDigest.text(String(name.prefix(64)))), 0)")
      guard got == "1" else { throw StatementFailure(code: 1, message: "another process follows this store") }
    } catch { throw error.code == 1 ? .unreachable("following the log: \(error.message)") : error.followingError }
  }

  /// Names of the server's files, in their order.
  private func files(_ server: Server, _ control: Connection) async throws(DriverError) -> [String] {
    let listed = await environment.pool.run { () -> [String] in
      guard let bytes = try? Files.read(server.index, limitBytes: 1 << 24) else { return [] }
      return String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isNewline).map {
        Files.last(of: String($0))
      }
    }
    if !listed.isEmpty { return listed.filter(BinlogPosition.isName) }
    // It waits for whoever writes to the log; the file doesn't, but may be out of our reach.
    do throws(StatementFailure) {
      return try await control.run("SHOW BINARY LOGS").rows.compactMap { $0.first ?? nil }.filter(BinlogPosition.isName)
    } catch { throw error.followingError }
  }

  private var environment: DriverEnvironment { driver.environment }

  // MARK: Where to begin

  private enum Start: Sendable {
    /// Behind what the sink has.
    case on(BinlogMirror.Resumption)
    /// With a file's first byte.
    case anew(file: String, begun: UInt32?, why: String?)
  }

  private func follow(
    _ server: Server, _ control: Connection, from end: LogEnd?, hint: LogCursor?, into sink: any LogSink
  ) async throws(DriverError) {
    let clock = CommitClock()
    var why: String?
    var hint = hint
    var start: Start?
    if let end {
      if end.stream != server.stream {
        why = "the server's server_id is \(server.identifier), and the log was that of \(end.stream)"
      } else if let place = BinlogMirror.Resumption(end) {
        start = .on(place)
      } else {
        why = "the log's end makes no sense"
      }
    }
    while true {
      let begin: Start
      if let start {
        begin = start
      } else {
        let files = try await files(server, control)
        guard let newest = files.last else { throw .unreachable("following the log: the server lists no files") }
        let wanted = hint.flatMap { LogFileName($0.file) }
        if let wanted, files.contains(wanted.name) {
          begin = .anew(file: wanted.name, begun: wanted.begun, why: why)
        } else {
          hint = nil
          begin = .anew(file: newest, begun: nil, why: why)
        }
      }
      let failure = await stream(server, control, from: begin, clock, into: sink)
      if Task.isCancelled { throw .cancelled }
      guard case .refused(let said) = failure else { throw failure.driverError }
      switch begin {
      case .on: (start, why) = (nil, said)
      case .anew(_, let begun?, _) where begun > 0: hint = nil
      case .anew: throw .unreachable("following the log: \(said)")
      }
    }
  }

  /// Why a stream ended.
  private enum Ending: Sendable {
    /// From there the log can't be had: only another place will do.
    case refused(String)
    case failed(DriverError)

    var driverError: DriverError {
      switch self {
      case .refused(let why): .unreachable("following the log: \(why)")
      case .failed(let error): error
      }
    }
  }

  /// Receives, and asks beside it how late it is: one may have to wait for the other.
  private func stream(
    _ server: Server, _ control: Connection, from start: Start, _ clock: CommitClock, into sink: any LogSink
  ) async -> Ending {
    await withTaskGroup(of: Ending.self) { group in
      group.addTask { await receive(server, from: start, clock, into: sink) }
      group.addTask {
        do throws(DriverError) {
          while true {
            try await clock.ask(control)
            do { try await environment.time.sleep(for: .milliseconds(300)) } catch { throw .cancelled }
          }
        } catch { return .failed(error) }
      }
      let first = await group.next() ?? .failed(.cancelled)
      group.cancelAll()
      // The receiver is heard out: it may be putting bytes into the sink.
      for await _ in group {}
      return first
    }
  }

  // MARK: Receiving

  private func receive(
    _ server: Server, from start: Start, _ clock: CommitClock, into sink: any LogSink
  ) async -> Ending {
    let secret: Secret?
    let connection: Connection
    do throws(DriverError) {
      secret = try await driver.secret()
      connection = try await Connection.open(driver.address, password: secret, pool: environment.pool, isStream: true)
    } catch { return .failed(error) }
    let ending = await receive(connection, server, from: start, clock, into: sink)
    await connection.close()
    return ending
  }

  private func receive(
    _ connection: Connection, _ server: Server, from start: Start, _ clock: CommitClock, into sink: any LogSink
  ) async -> Ending {
    let time = environment.time
    do throws(StatementFailure) {
      try await connection.run("SET SESSION net_write_timeout = 3600")
      var mirror: BinlogMirror
      switch start {
      case .on(let place):
        mirror = BinlogMirror(stream: server.stream, goingOn: place)
        if driver.isSemiSynchronous {
          // Where we ask for the log from, the server takes for what we have.
          while sink.durable.map({ $0.value != place.position.description }) ?? true {
            do { try await time.sleep(for: .milliseconds(20)) } catch { throw .cancelled }
          }
        }
      case .anew(let file, let begun, let why):
        mirror = BinlogMirror(stream: server.stream, file: file, begun: begun, why: why)
      }
      try await connection.introduce(isSemiSynchronous: driver.isSemiSynchronous)
      try await connection.startDump(mirror.file, from: mirror.request, as: replica)
      var acknowledged: String?
      var heard = time.monotonicNanoseconds()
      var gathers = false
      while true {
        if Task.isCancelled { throw .cancelled }
        if sink.hasRoom {
          if gathers { do { try await time.sleep(for: sink.gathering) } catch { throw .cancelled } }
          let isWaitedFor = driver.isSemiSynchronous && acknowledged != mirror.position.description
          let received = try await connection.receive(
            limitBytes: Self.readBytes, wait: isWaitedFor ? min(sink.gathering, .milliseconds(5)) : .milliseconds(100))
          if !received.packets.isEmpty { heard = time.monotonicNanoseconds() }
          gathers = sink.mayGather(after: received.packets.reduce(0) { $0 + $1.count })
          for packet in received.packets {
            try packet.withRawBytes { (raw) throws(StatementFailure) -> Void in try mirror.take(raw) }
          }
          if let beginning = mirror.takeBeginning() { sink.begin(beginning) }
          do throws(DriverError) { for chunk in mirror.takeChunks() { try sink.append(chunk) } } catch {
            return .failed(error)
          }
          if let ending = received.ending { throw ending }
        } else {
          do { try await time.sleep(for: .milliseconds(20)) } catch { throw .cancelled }
          heard = time.monotonicNanoseconds()
        }
        if Duration.nanoseconds(time.monotonicNanoseconds() - heard) > Self.silence {
          throw StatementFailure(code: 2013, message: "the server has not said a word for \(Self.silence.brief)")
        }
        if mirror.hasBegun, let until = clock.passed(by: mirror.reached) {
          sink.note(LogMark(position: mirror.mark, completeUntil: until))
        }
        if mirror.isSemiSynchronous, mirror.hasBegun, let durable = sink.durable, durable.value != acknowledged,
          let position = BinlogPosition(durable.value)
        {
          try await connection.acknowledge(position)
          acknowledged = durable.value
        }
      }
    } catch {
      switch error.code {
      case BinlogMirror.refused, 1236: return .refused(error.message)
      case BinlogMirror.broken: return .failed(.logGap(error.message))
      default: return .failed(error.followingError)
      }
    }
  }

  // MARK: Places

  func cursor(of position: LogPosition, in capture: CaptureResult, among files: [String]) -> LogCursor? {
    guard position.kind == "binlog", let place = BinlogPosition(position.value) else { return nil }
    if let begun = position.details["begun"].flatMap({ UInt32($0) }) {
      return LogCursor(LogFileName(place.file, begun: begun).text, place.offset)
    }
    // Which of that name is for the log to say: the newest.
    guard let file = files.last(where: { LogFileName($0)?.name == place.file }) else { return nil }
    return LogCursor(file, place.offset)
  }
}

/// What the server had written at moments of its own clock.
///
/// First the time is asked for, then the transactions: what was acknowledged before the one is among the other.
final class CommitClock: Sendable {
  private struct Moment {
    var time: Timestamp
    /// By domain; those that have been met are taken out.
    var missing: [UInt32: String]
  }

  private let moments = Mutex<[Moment]>([])
  private static let most = 100

  func ask(_ control: Connection) async throws(DriverError) {
    do throws(StatementFailure) {
      let text = try await control.value("SELECT UNIX_TIMESTAMP(SYSDATE(6))") ?? ""
      let gtids = try await control.value("SELECT @@GLOBAL.gtid_binlog_pos") ?? ""
      guard let time = Self.timestamp(text), let list = GTIDList(gtids) else {
        throw StatementFailure(code: 2027, message: "the server did not say what time it is")
      }
      moments.withLock { moments in
        moments.append(Moment(time: time, missing: list.positions))
        if moments.count > Self.most { moments.removeFirst() }
      }
    } catch { throw error.followingError }
  }

  /// The newest of the moments whose transactions have all been received; those up to it are forgotten.
  func passed(by reached: GTIDList) -> Timestamp? {
    moments.withLock { moments in
      var newest: Timestamp?
      var kept: [Moment] = []
      for moment in moments {
        let isPassed = moment.missing.allSatisfy { domain, place in
          reached.positions[domain].map { Self.hasPassed($0, place) } ?? false
        }
        if isPassed { newest = max(newest ?? moment.time, moment.time) } else { kept.append(moment) }
      }
      moments = kept.filter { moment in newest.map { moment.time > $0 } ?? true }
      return newest
    }
  }

  /// Numbers of one server only grow; another's can't be compared, and are waited for until they are met.
  private static func hasPassed(_ reached: String, _ place: String) -> Bool {
    if reached == place { return true }
    let (a, b) = (reached.split(separator: "-"), place.split(separator: "-"))
    guard a.count == 2, b.count == 2, a[0] == b[0], let x = UInt64(a[1]), let y = UInt64(b[1]) else { return false }
    return x >= y
  }

  /// `1795296573.123456`.
  static func timestamp(_ text: String) -> Timestamp? {
    let parts = text.split(separator: ".", omittingEmptySubsequences: false)
    guard parts.count == 2, parts[1].count == 6, let seconds = Int64(parts[0]), let micros = Int64(parts[1]),
      seconds >= 0, seconds < 1 << 32, micros >= 0
    else { return nil }
    return Timestamp(seconds: seconds, nanoseconds: micros * 1000)
  }
}

extension StatementFailure {
  /// What ended following, as the keeper understands it.
  fileprivate var followingError: DriverError {
    switch code {
    case 1227, 1044, 1142:
      .permissionDenied(
        "following the log: \(message)", needs: "REPLICATION SLAVE, as docs/operating/continuous.md says")
    case _ where isCancelled || isConnectionLost: driverError("following the log")
    // A statement that was ended by somebody, a server that goes down: it may be there again.
    default: .unreachable("following the log: \(message)")
    }
  }
}
