import Core
import DriverKit
import Glibc
import IO

/// A server of our own that loads a captured state, reachable through a Unix socket in its directory and nothing else.
///
/// Time would change what it holds: keys whose expiry has passed vanish as soon as a server looks. So the append-only
/// files are followed by one more, with a command that the server executes while it still loads, when nothing expires.
struct ScratchServer: Sendable {
  enum Mode: Sendable {
    /// Every key's expiry is taken off and written down in a database after the last one, for counting and digests.
    case persistent
    /// Expiries stay and nobody acts on them, for writing the state out again; keys must not be read.
    case timeless
  }

  let mode: Mode
  let databases: Int
  let connection: Connection
  let pool: BlockingPool
  let peer: String

  static let socketName = "s.sock"
  static let tail = "salvor.aof"

  /// For `Mode.persistent`, on one server, `ARGV[1]` databases: moves expiries into hashes `db0`, `db1`, … of the next
  /// one.
  private static let takeOffExpiries = """
    pcall(redis.replicate_commands)
    local n = tonumber(ARGV[1])
    for db = 0, n - 1 do
      redis.call('SELECT', db)
      local cursor = '0'
      repeat
        local page = redis.call('SCAN', cursor, 'COUNT', 1000)
        cursor = page[1]
        for _, key in ipairs(page[2]) do
          local at = redis.call('PEXPIRETIME', key)
          if at >= 0 then
            redis.call('PERSIST', key)
            redis.call('SELECT', n)
            redis.call('HSET', 'db' .. db, key, string.format('%.0f', at))
            redis.call('SELECT', db)
          end
        end
      until cursor == '0'
    end
    """

  static func tail(_ mode: Mode, databases: Int) -> [UInt8] {
    let command =
      switch mode {
      case .persistent: Connection.format("EVAL", takeOffExpiries, "0", String(databases))
      case .timeless: Connection.format("DEBUG", "SET-ACTIVE-EXPIRE", "0")
      }
    return Connection.format("SELECT", "0") + command
  }

  /// - Throws: ``DriverError/corrupt(_:)`` if the numbers differ.
  func compare(with counts: [Int: KeyCount]?) async throws(DriverError) {
    guard let counts else { return }
    let found = try await keyCounts()
    for index in Set(counts.keys).union(found.keys).sorted() {
      let (expected, actual) = (counts[index] ?? KeyCount(), found[index] ?? KeyCount())
      guard expected == actual else {
        throw .corrupt("database \(index) of the copy has \(actual); the server had \(expected) at the mark")
      }
    }
  }

  func keyCounts() async throws(DriverError) -> [Int: KeyCount] {
    try await blocking { (connection) throws(WireError) in
      var counts = Info(try connection.call("INFO", "keyspace").text ?? "").keyspace
      counts[databases] = nil
      guard mode == .persistent else { return counts }
      _ = try connection.call("SELECT", String(databases))
      for index in counts.keys {
        guard case .integer(let number) = try connection.call("HLEN", "db\(index)") else { continue }
        counts[index]?.expiring = number
      }
      return counts
    }
  }

  func blocking<T: Sendable>(
    _ body: @escaping @Sendable (Connection) throws(WireError) -> T
  ) async throws(DriverError) -> T {
    let connection = connection
    do throws(WireError) {
      return try await pool.run { () throws(WireError) -> T in try body(connection) }
    } catch {
      throw error.driverError(at: peer, doing: "a proof")
    }
  }
}

extension RedisDriver {
  /// Runs `body` with a server over `directory`/appendonlydir, which holds a base and `increments`, and ends the
  /// server.
  ///
  /// - Throws: ``DriverError/corrupt(_:)`` if the engine refuses the files.
  func withScratchServer<T: Sendable>(
    at directory: String, increments: [String], databases: Int, mode: ScratchServer.Mode,
    _ body: (ScratchServer) async throws(DriverError) -> T
  ) async throws(DriverError) -> T {
    let words = [
      configuration.binary, "--port", "0", "--unixsocket", ScratchServer.socketName, "--unixsocketperm", "700",
      "--dir", directory, "--save", "", "--appendonly", "yes", "--appendfilename", "appendonly.aof", "--appenddirname",
      "appendonlydir", "--aof-load-truncated", "no", "--aof-use-rdb-preamble", "yes", "--auto-aof-rewrite-percentage",
      "0", "--databases", String(databases + 1), "--dbfilename", "dump.rdb", "--daemonize", "no", "--logfile",
      "server.log", "--maxmemory", "0", "--enable-debug-command", "local", "--always-show-logo", "no",
    ]
    let child = try await environment.pool.run { () throws(DriverError) -> OwnProcess in
      do throws(SystemFailure) {
        let files = "\(directory)/appendonlydir"
        try Files.replace("\(files)/\(ScratchServer.tail)", with: ScratchServer.tail(mode, databases: databases))
        var manifest = "file \(RedisCapture.Names.base) seq 1 type b\n"
        for (index, name) in (increments + [ScratchServer.tail]).enumerated() {
          manifest += "file \(name) seq \(index + 1) type i\n"
        }
        try Files.replace("\(files)/\(RedisCapture.Names.manifest)", with: Array(manifest.utf8))
        return try OwnProcess.start(words)
      } catch {
        if error.call == "spawn" { throw .engineFailed("\(configuration.binary) can't be run", log: error.message) }
        throw DriverError(error)
      }
    }
    let result: Result<T, DriverError>
    do throws(DriverError) {
      let connection = try await loaded(child, at: directory)
      result = .success(
        try await body(
          ScratchServer(
            mode: mode, databases: databases, connection: connection, pool: environment.pool, peer: "the proving server"
          )))
    } catch { result = .failure(error) }
    await environment.pool.run {
      child.kill()
      _ = child.wait()
    }
    return try result.get()
  }

  /// Waits until the server has loaded everything.
  private func loaded(_ child: OwnProcess, at directory: String) async throws(DriverError) -> Connection {
    let interruption = Interruption()
    let patience = max(configuration.timeout, .seconds(60))
    while true {
      let connection = await environment.pool.run { () -> Connection? in
        // The directory may lie deeper than a socket's address can say; its descriptor is short.
        guard let place = try? File(directory, O_RDONLY | O_DIRECTORY),
          let socket = try? Socket.connect(
            host: "/proc/self/fd/\(place.descriptor)/\(ScratchServer.socketName)", port: 0, patience: .seconds(1)),
          let connection = try? Connection(socket, patience: patience, interruption: interruption),
          let text = try? connection.call("INFO", "persistence", patience: .seconds(1)).text
        else { return nil }
        return Info(text)["loading"] == "0" ? connection : nil
      }
      if let connection { return connection }
      if let code = await environment.pool.run({ child.ended() }) {
        throw await refused(code, at: directory)
      }
      do { try await environment.time.sleep(for: .milliseconds(10)) } catch { throw DriverError(error) }
    }
  }

  private func refused(_ code: Int32, at directory: String) async -> DriverError {
    let log = await environment.pool.run { (try? Files.read("\(directory)/server.log", limitBytes: 1 << 24)) ?? [] }
    let lines = String(decoding: log, as: UTF8.self).split(whereSeparator: \.isNewline)
    let last = lines.suffix(3).map { line in
      // `pid:role day month year time level text`: the text is what tells something.
      line.split(separator: " ", maxSplits: 6).last.map(String.init) ?? String(line)
    }.joined(separator: "; ")
    let damage = ["RDB", "AOF", "append only", "Append Only", "Short read", "checksum", "signature", "Unexpected"]
    if damage.contains(where: { last.contains($0) }) || code >= 128 {
      return .corrupt("\(configuration.binary) refuses the captured files: \(last)")
    }
    return .engineFailed("\(configuration.binary) ended with code \(code)", log: last)
  }

  /// The version of ``RedisConfiguration/binary``.
  func installedVersion() async throws(DriverError) -> EngineVersion {
    let binary = configuration.binary
    return try await environment.pool.run { () throws(DriverError) -> EngineVersion in
      let result: (code: Int32, output: String)
      do throws(SystemFailure) { result = try OwnProcess.run([binary, "--version"]) } catch {
        throw .engineFailed("\(binary) can't be run", log: error.message)
      }
      // `Redis server v=7.0.15 sha=…`, `Valkey server v=8.0.1 …`
      let words = result.output.split(separator: " ")
      let number = words.first { $0.hasPrefix("v=") }?.dropFirst(2) ?? ""
      let family = words.first == "Valkey" ? "valkey " : ""
      guard result.code == 0, let version = EngineVersion(family + number) else {
        throw .engineFailed("\(binary) doesn't tell its version", log: result.output)
      }
      return version
    }
  }
}
