import Core
import DriverKit
import Glibc
import IO

extension RedisDriver {
  func rewriter() -> (any StoreRewriter)? { RedisRewriter(driver: self) }
}

/// Makes a keyspace anew: every key is read from one private server and written to another, whose dump is the copy.
///
/// A key of another database than 0 is called `db3/key`. Of what is rewritten the expiry stays, a stream's groups don't; what is kept
/// comes along whole. Keys whose time is over are gone.
struct RedisRewriter: StoreRewriter {
  let driver: RedisDriver

  private struct Key: Sendable {
    var database: Int
    var key: [UInt8]
    var name: [UInt8] { RedisRewriter.prefix(database) + key }
  }

  private static func prefix(_ database: Int) -> [UInt8] { database == 0 ? [] : Array("db\(database)/".utf8) }

  private func directory() throws(DriverError) -> String {
    guard let directory = driver.configuration.dataDirectory else {
      throw .badOption(
        store: driver.configuration.store, option: "dataDirectory", why: "is needed to make a copy of this store")
    }
    return directory
  }

  func shape() async throws(AnyFailure) -> StoreShape {
    try await wrapped {
      try await serving([try directory()]) { connections in
        let connection = connections[0]
        var shape = StoreShape()
        var names: Set<String> = []
        try each(connection) { names.insert(String(decoding: $0.name, as: UTF8.self)) }
        shape.entries = names.sorted()
        shape.others = try libraries(connection).map { "function library \($0.name)" }.sorted()
        return shape
      }
    }
  }

  func read(
    limit: Int, _ each: @escaping @Sendable (ContentPiece) throws(AnyFailure) -> Void
  ) async throws(AnyFailure) {
    try await wrapped {
      try await serving([try directory()]) { connections in
        let connection = connections[0]
        var count = 0
        try self.each(connection) { key in
          count += 1
          if count <= limit { try each(.entry(key.name, try content(of: key.key, connection))) }
        }
        for library in try libraries(connection) { try each(.schema(library.code)) }
      }
    }
  }

  func rewrite(to place: String, by rewriting: any ContentRewriting) async throws(AnyFailure) -> RewriteCount {
    try await wrapped {
      try Files.createDirectory(place, mode: 0o700)
      return try await serving([try directory(), place]) { connections in
        let (old, new) = (connections[0], connections[1])
        var count = RewriteCount()
        try each(old) { key in
          guard let written = try carry(key, from: old, to: new, rewriting) else { return }
          if written { count.entries += 1 } else { count.dropped += 1 }
        }
        for library in try libraries(old) where try rewriting.carries("function library \(library.name)") {
          _ = try new.call("FUNCTION", "LOAD", library.code)
        }
        _ = try new.call("SAVE")
        count.proofs = ["redis-server saved \(count.entries) keys"]
        return count
      }
    }
  }

  // MARK: Keys

  /// Calls for each key there is, the connection being at its database.
  private func each(_ connection: Connection, _ body: (Key) throws -> Void) throws {
    let databases = Info(try connection.call("INFO", "keyspace").text ?? "").keyspace.keys.sorted()
    for database in databases {
      _ = try connection.call("SELECT", String(database))
      var seen: Set<[UInt8]> = []
      var cursor = "0"
      repeat {
        guard let page = try connection.call("SCAN", cursor, "COUNT", "512").elements, page.count == 2,
          let next = page[0].text,
          let keys = page[1].elements
        else { throw WireError.garbled("SCAN") }
        cursor = next
        for case .bytes(let key) in keys where seen.insert(key).inserted { try body(Key(database: database, key: key)) }
      } while cursor != "0"
    }
  }

  /// - Returns: `nil` for a key whose time has come meanwhile, else whether it was carried.
  private func carry(
    _ key: Key, from old: Connection, to new: Connection, _ rewriting: any ContentRewriting
  ) throws -> Bool? {
    let target: [UInt8]
    var isKept = false
    switch try rewriting.plan(key.name) {
    case .drop: return false
    case .keep(let name): (target, isKept) = (name, true)
    case .rewrite(let name): target = name
    }
    let prefix = Self.prefix(key.database)
    guard target.starts(with: prefix) else { throw DriverError.unsupported("a rule moves a key to another database") }
    let name = Array(target.dropFirst(prefix.count))
    guard case .integer(let expiry) = try old.call(words: [Array("PEXPIRETIME".utf8), key.key]), expiry != -2 else {
      return nil
    }
    _ = try new.call("SELECT", String(key.database))
    guard case .integer(0) = try new.call(words: [Array("EXISTS".utf8), name]) else {
      throw DriverError.unsupported("two keys would come to have one name: a pattern leaves out what tells them apart")
    }
    if isKept {
      guard case .bytes(let dump) = try old.call(words: [Array("DUMP".utf8), key.key]) else { return nil }
      _ = try new.call(words: [Array("RESTORE".utf8), name, [48], dump])
    } else {
      guard let content = try content(of: key.key, old) else { return nil }
      try write(try rewriting.content(content, of: key.name), to: name, new)
    }
    if expiry >= 0 { _ = try new.call(words: [Array("PEXPIREAT".utf8), name, Array(String(expiry).utf8)]) }
    return true
  }

  private func bytes(_ reply: Reply) throws(WireError) -> [UInt8] {
    guard case .bytes(let bytes) = reply else { throw .garbled("an answer that is no text") }
    return bytes
  }

  private func fields(_ replies: [Reply]) throws(WireError) -> [EntryContent.Field] {
    guard replies.count.isMultiple(of: 2) else { throw .garbled("half a field") }
    return try stride(from: 0, to: replies.count, by: 2).map { (index) throws(WireError) in
      .init(try bytes(replies[index]), try bytes(replies[index + 1]))
    }
  }

  /// - Returns: `nil` for a key that is gone.
  private func content(of key: [UInt8], _ connection: Connection) throws -> EntryContent? {
    func ask(_ words: String..., then more: String...) throws -> [Reply] {
      let reply = try connection.call(words: words.map { Array($0.utf8) } + [key] + more.map { Array($0.utf8) })
      return reply.elements ?? [reply]
    }
    let type = try connection.call(words: [Array("TYPE".utf8), key]).text ?? ""
    switch type {
    case "none": return nil
    case "string": return .bytes(try bytes(try ask("GET")[0]))
    case "hash": return .fields(try fields(try ask("HGETALL")))
    case "list": return .members(try ask("LRANGE", then: "0", "-1").map(bytes))
    case "set": return .set(try ask("SMEMBERS").map(bytes))
    case "zset": return .scored(try fields(try ask("ZRANGE", then: "0", "-1", "WITHSCORES")))
    case "stream":
      return .stream(
        try ask("XRANGE", then: "-", "+").map { message in
          guard let parts = message.elements, parts.count == 2, let id = parts[0].text else {
            throw WireError.garbled("XRANGE")
          }
          return .init(id: id, try fields(parts[1].elements ?? []))
        })
    default: throw DriverError.unsupported("a key of type '\(type)' can't be rewritten: keep or drop it")
    }
  }

  private func write(_ content: EntryContent, to name: [UInt8], _ connection: Connection) throws {
    func say(_ command: String, _ words: [[UInt8]]) throws {
      _ = try connection.call(words: [Array(command.utf8), name] + words)
    }
    switch content {
    case .bytes(let bytes): try say("SET", [bytes])
    case .fields(let fields): for field in fields { try say("HSET", [field.name, field.value]) }
    case .members(let members): for member in members { try say("RPUSH", [member]) }
    case .set(let members): for member in members { try say("SADD", [member]) }
    case .scored(let fields): for field in fields { try say("ZADD", [field.value, field.name]) }
    case .stream(let messages):
      for message in messages {
        try say("XADD", [Array(message.id.utf8)] + message.fields.flatMap { [$0.name, $0.value] })
      }
    }
  }

  private struct Library {
    var name: String
    var code: String
  }

  private func libraries(_ connection: Connection) throws -> [Library] {
    // Redis 6 has no functions.
    guard let replies = try? connection.call("FUNCTION", "LIST", "WITHCODE").elements else { return [] }
    return replies.map { library in
      let fields = library.elements ?? []
      func value(_ name: String) -> String {
        for index in stride(from: 0, to: fields.count - 1, by: 2) where fields[index].text == name {
          return fields[index + 1].text ?? ""
        }
        return ""
      }
      return Library(name: value("library_name"), code: value("library_code"))
    }
  }

  // MARK: Servers nobody else reaches

  /// Runs `body` on the pool with a server over each directory, which never saves by itself, and ends the servers.
  private func serving<T: Sendable>(
    _ directories: [String], _ body: @escaping @Sendable ([Connection]) throws -> T
  ) async throws -> T {
    var servers: [Server] = []
    let result: Result<T, any Error>
    do {
      var connections: [Connection] = []
      for directory in directories {
        let server = try Server(directory, driver.configuration.binary)
        servers.append(server)
        connections.append(try await answering(server))
      }
      let ready = connections
      result = .success(
        try await driver.environment.pool.run { () throws(AnyFailure) in
          do { return try body(ready) } catch let error as WireError {
            throw AnyFailure(error.driverError(at: "a private server", doing: "a copy"))
          } catch { throw AnyFailure(error) }
        })
    } catch { result = .failure(error) }
    for server in servers { await driver.environment.pool.run { server.end() } }
    return try result.get()
  }

  private struct Server: Sendable {
    let directory: String
    let child: OwnProcess
    let log: File

    init(_ directory: String, _ binary: String) throws {
      let dump = try Files.names(in: directory).map(\.lossyText).first { $0.hasSuffix(".rdb") } ?? "dump.rdb"
      self.directory = directory
      log = try unlinkedFile()
      child = try OwnProcess.start(
        [
          binary, "--port", "0", "--unixsocket", ScratchServer.socketName, "--unixsocketperm", "700", "--dir",
          directory,
          "--dbfilename", dump, "--save", "", "--appendonly", "no", "--databases", "1024", "--daemonize", "no",
          "--logfile",
          "", "--maxmemory", "0", "--always-show-logo", "no",
        ], output: log.descriptor)
    }

    func end() {
      child.kill()
      _ = child.wait()
      try? Files.removeTree("\(directory)/\(ScratchServer.socketName)")
    }

    /// - Returns: `nil` while it does not answer, or loads.
    func connection() -> Connection? {
      // The directory may lie deeper than a socket's address can say; its descriptor is short.
      guard let place = try? File(directory, O_RDONLY | O_DIRECTORY),
        let socket = try? Socket.connect(
          host: "/proc/self/fd/\(place.descriptor)/\(ScratchServer.socketName)", port: 0, patience: .seconds(1)),
        let connection = try? Connection(socket, patience: .seconds(60)),
        let text = try? connection.call("INFO", "persistence", patience: .seconds(1)).text
      else { return nil }
      return Info(text)["loading"] == "0" ? connection : nil
    }
  }

  private func answering(_ server: Server) async throws -> Connection {
    while true {
      if let connection = await driver.environment.pool.run({ server.connection() }) { return connection }
      if let code = await driver.environment.pool.run({ server.child.ended() }) {
        throw DriverError.engineFailed(
          "\(driver.configuration.binary) ended with code \(code)", log: lastLines(try server.log.lastText(4096)))
      }
      try await driver.environment.time.sleep(for: .milliseconds(10))
    }
  }
}
