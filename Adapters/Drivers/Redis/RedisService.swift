import Core
import DriverKit
import Glibc
import IO

extension RedisDriver {
  /// How long a server may take to end, or a start or stop command to return.
  private static var endingLimit: Duration { .seconds(60) }

  /// Whether somebody accepts connections where the server should be.
  func isServing() async -> Bool {
    let configuration = configuration
    return await environment.pool.run {
      (try? Socket.connect(host: configuration.host, port: configuration.port, patience: configuration.timeout)) != nil
    }
  }

  func start() async throws(DriverError) {
    if await !isServing() {
      if !configuration.startCommand.isEmpty {
        try await run(configuration.startCommand, what: "the 'start' command")
      } else if let file = configuration.configFile {
        var words = [configuration.binary, file, "--daemonize", "yes"]
        if let user = configuration.runAs {
          words = ["setpriv", "--reuid=\(user)", "--regid=\(user)", "--init-groups"] + words
        }
        try await run(words, what: configuration.binary)
      } else {
        throw .unsupported(
          "store \(configuration.store) has neither a 'start' command nor a 'configFile' to start it with")
      }
    }
    try await waitUntilItAnswers()
  }

  /// A server that loads says so, and is waited for as long as it does.
  private func waitUntilItAnswers() async throws(DriverError) {
    var remaining = 1200
    while true {
      do throws(DriverError) {
        let connection = try await connect()
        let info = try await self.info(connection)
        if info["loading"] != "1" { return try await compareWithRestored(connection, info) }
        remaining = 1200
      } catch {
        guard case .unreachable = error else { throw error }
        remaining -= 1
        guard remaining > 0 else { throw error }
      }
      do { try await environment.time.sleep(for: .milliseconds(25)) } catch { throw DriverError(error) }
    }
  }

  /// After a swap, once: what the server holds is what was restored. A setting that the driver does not see, in an
  /// included file or the start command, can make a server load other files, or none.
  ///
  /// Keys with an expiry may be fewer by now, and evicted ones are allowed for.
  /// - Throws: ``DriverError/corrupt(_:)``, and again at the next start.
  private func compareWithRestored(_ connection: Connection, _ info: Info) async throws(DriverError) {
    var directory = configuration.dataDirectory
    if directory == nil { directory = try await settings(connection).0.values["dir"] }
    guard let directory else { return }
    let found = try await environment.pool.run { () throws(DriverError) -> [(String, [String: KeyCount])] in
      do {
        let names = (try? Files.names(in: directory).map(\.lossyText)) ?? []
        return try names.filter { $0.hasPrefix(".salvor-") }.compactMap { name in
          let (mark, counted) = (
            "\(directory)/\(name)/\(Place.unprovedName)", "\(directory)/\(name)/\(Place.countedName)"
          )
          guard Files.exists(mark), EntrySwap.isSwapped(in: "\(directory)/\(name)") else { return nil }
          let bytes = try Files.read(counted, limitBytes: 1 << 24)
          return (mark, try CanonicalJSON.decode([String: KeyCount].self, from: bytes))
        }
      } catch { throw DriverError(error) }
    }
    let live = info.keyspace
    let evicted = info.integer("evicted_keys") ?? 0
    for (mark, counted) in found {
      let expected = Dictionary(
        counted.compactMap { name, count in Int(name).map { ($0, count) } }, uniquingKeysWith: { first, _ in first })
      for index in Set(live.keys).union(expected.keys).sorted() {
        let (now, then) = (live[index] ?? KeyCount(), expected[index] ?? KeyCount())
        guard now.lasting <= then.lasting, now.lasting >= then.lasting - evicted, now.expiring <= then.expiring else {
          throw .corrupt(
            "database \(index) of the started server has \(now), and what was restored has \(then); it may load other "
              + "files than those in \(directory): see appendonly, dir and dbfilename in what it includes and how it is started"
          )
        }
      }
      try await environment.pool.run { () throws(DriverError) in
        do throws(SystemFailure) { try Files.removeTree(mark) } catch { throw DriverError(error) }
      }
    }
  }

  func stop() async throws(DriverError) {
    if !configuration.stopCommand.isEmpty {
      if await isServing() { try await run(configuration.stopCommand, what: "the 'stop' command") }
      return try await waitUntilGone(nil)
    }
    guard await isServing() else { return }
    let connection = try await connect()
    let pid = try await info(connection).integer("process_id")
    // Saves where saving is configured, and always writes the append-only file out; an answer only comes if it can't.
    let limit = Self.endingLimit
    do throws(WireError) {
      try await environment.pool.run { () throws(WireError) in
        throw .refused(try connection.call("SHUTDOWN", patience: limit).text ?? "it did not")
      }
    } catch {
      // The connection ends with the server.
      if case .refused = error { throw error.driverError(at: peer, doing: "SHUTDOWN") }
    }
    try await waitUntilGone(pid)
  }

  /// - Parameter pid: The server's, if it runs on this machine.
  private func waitUntilGone(_ pid: Int64?) async throws(DriverError) {
    let isLocal = ["127.0.0.1", "localhost", "::1"].contains(configuration.host) || configuration.host.hasPrefix("/")
    var waited = Duration.zero
    while waited < Self.endingLimit {
      let process = isLocal ? pid.flatMap { pid_t(exactly: $0) } : nil
      let isThere = await environment.pool.run { process.map { Self.isAlive($0) } ?? false }
      if await !isServing(), !isThere { return }
      do { try await environment.time.sleep(for: .milliseconds(10)) } catch { throw DriverError(error) }
      waited += .milliseconds(10)
    }
    throw .serverRunning("after \(Self.endingLimit.brief) the server at \(peer)")
  }

  /// Not gone and not a zombie, which nobody may collect for a while.
  private static func isAlive(_ pid: pid_t) -> Bool {
    guard let bytes = try? Files.read("/proc/\(pid)/stat", limitBytes: 4096) else { return false }
    let text = String(decoding: bytes, as: UTF8.self)
    guard let end = text.lastIndex(of: ")") else { return true }
    let state = text[text.index(after: end)...].first { $0 != " " }
    return state != "Z" && state != "X"
  }

  private func run(_ words: [String], what: String) async throws(DriverError) {
    try await OwnProcess.succeed(words, what: what, on: environment.pool)
  }
}
