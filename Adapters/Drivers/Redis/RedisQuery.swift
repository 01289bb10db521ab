import Core
import DriverKit
import IO

extension RedisDriver {
  /// One reading command, its words parted by blanks and kept together by quotes; or `SCANHASH pattern field`, which
  /// gives that field of every hash whose key matches. `DB 3 …` before either looks into database 3.
  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    let connection = try await connect()
    do throws(WireError) {
      return try await environment.pool.run { () throws(WireError) -> QueryResult in
        try Self.answer(text, connection, limit)
      }
    } catch {
      switch error {
      case .refused(let why) where !["NOAUTH", "WRONGPASS", "NOPERM"].contains(String(why.prefix { $0 != " " })):
        throw .queryFailed(why)
      case .refused(let why) where why.hasPrefix("NOPERM"): throw .permissionDenied(why, needs: Rights.query)
      case .silent(let limit): throw .queryFailed("it took longer than \(limit.brief)")
      default: throw error.driverError(at: peer, doing: "the query")
      }
    }
  }

  /// Blocks.
  static func answer(_ text: String, _ connection: Connection, _ limit: QueryLimit) throws(WireError) -> QueryResult {
    guard var words = CommandLine.split(text), !words.isEmpty else {
      throw .refused("the command is empty, or a quote is not closed")
    }
    if upper(words[0]) == "DB", words.count > 2 {
      _ = try connection.call("SELECT", String(decoding: words[1], as: UTF8.self))
      words.removeFirst(2)
    }
    switch upper(words[0]) {
    case "SCANHASH":
      guard words.count == 3 else { throw .refused("SCANHASH takes a pattern and a field") }
      return try scanHash(connection, pattern: words[1], field: words[2], limit)
    case "SCANVALUES":
      guard words.count == 2 else { throw .refused("SCANVALUES takes a pattern") }
      return try scanValues(connection, pattern: words[1], limit)
    default: break
    }
    try refuseWriting(words, connection)
    let reply = try connection.call(words: words, patience: limit.timeout)
    return rows(reply, of: upper(words[0]), limit)
  }

  /// Asks the server what kind of command this is; what it doesn't call read-only isn't sent.
  private static func refuseWriting(_ command: [[UInt8]], _ connection: Connection) throws(WireError) {
    var names = [command[0]]
    if command.count > 1 { names.append(command[0] + [UInt8(ascii: "|")] + command[1]) }
    let infos = try connection.call(words: ["COMMAND", "INFO"].map { Array($0.utf8) } + names).elements ?? []
    // A subcommand, where there is one, says more than the command it belongs to.
    let known = infos.compactMap(\.elements).filter { $0.count > 2 }
    guard let flags = known.last?[2].elements?.compactMap(\.text) else {
      throw .refused("the server has no command \(upper(command[0]))")
    }
    let isReading = flags.contains("readonly") || upper(command[0]) == "INFO"
    guard isReading, !flags.contains("write"), !flags.contains("blocking"), !flags.contains("admin") else {
      throw .refused("\(upper(command[0])) is not a command that only reads")
    }
  }

  private static func rows(_ reply: Reply, of name: String, _ limit: QueryLimit) -> QueryResult {
    guard case .array(let elements) = reply else {
      return QueryResult(columns: ["value"], rows: [[reply.text]])
    }
    let isPairs = name == "HGETALL" && elements.count.isMultiple(of: 2)
    let width = isPairs ? 2 : 1
    let count = elements.count / width
    let rows = (0..<min(count, limit.rows)).map { row in
      (0..<width).map { flat(elements[row * width + $0]) }
    }
    return QueryResult(
      columns: isPairs ? ["field", "value"] : ["value"], rows: rows, isTruncated: count > limit.rows)
  }

  /// Nested arrays in one line: `[a, b, [c]]`.
  private static func flat(_ reply: Reply) -> String? {
    guard case .array(let elements) = reply else { return reply.text }
    return "[" + elements.map { flat($0) ?? "(nil)" }.joined(separator: ", ") + "]"
  }

  /// Keys ascending by their bytes, each once, though a scan may see one twice.
  private static func scanHash(
    _ connection: Connection, pattern: [UInt8], field: [UInt8], _ limit: QueryLimit
  ) throws(WireError) -> QueryResult {
    var found: [[UInt8]: String?] = [:]
    var cursor: [UInt8] = [UInt8(ascii: "0")]
    repeat {
      let scan =
        ["SCAN"].map { Array($0.utf8) } + [cursor] + [Array("MATCH".utf8), pattern]
        + ["COUNT", "1000", "TYPE", "hash"].map { Array($0.utf8) }
      guard let page = try connection.call(words: scan, patience: limit.timeout).elements, page.count == 2,
        case .bytes(let next) = page[0], let list = page[1].elements
      else { throw .garbled("SCAN") }
      cursor = next
      let keys = list.compactMap { reply -> [UInt8]? in if case .bytes(let key) = reply { key } else { nil } }
      guard !keys.isEmpty else { continue }
      let replies = try connection.all(keys.map { [Array("HGET".utf8), $0, field] }, patience: limit.timeout)
      for (key, reply) in zip(keys, replies) {
        // Between the scan and this a key can have become something else.
        if case .error = reply { continue }
        found[key] = .some(reply.text)
      }
    } while cursor != [UInt8(ascii: "0")]
    let keys = found.keys.sorted { $0.lexicographicallyPrecedes($1) }
    let rows = keys.prefix(limit.rows).map { key -> [String?] in
      [String(decoding: key, as: UTF8.self), found[key] ?? nil]
    }
    return QueryResult(columns: ["key", "value"], rows: Array(rows), isTruncated: keys.count > limit.rows)
  }

  /// Every key that fits, ascending by its bytes: its type, and what it holds; a text in so many words, anything else as the
  /// digest of its parts, in an order of its own where the type has none.
  private static func scanValues(
    _ connection: Connection, pattern: [UInt8], _ limit: QueryLimit
  ) throws(WireError) -> QueryResult {
    var keys: Set<[UInt8]> = []
    var cursor: [UInt8] = [UInt8(ascii: "0")]
    repeat {
      let scan = [Array("SCAN".utf8), cursor] + ["MATCH"].map { Array($0.utf8) } + [pattern]
      let page = try connection.call(words: scan + ["COUNT", "1000"].map { Array($0.utf8) }, patience: limit.timeout)
      guard let parts = page.elements, parts.count == 2, case .bytes(let next) = parts[0], let list = parts[1].elements
      else { throw .garbled("SCAN") }
      cursor = next
      for case .bytes(let key) in list { keys.insert(key) }
    } while cursor != [UInt8(ascii: "0")]
    let sorted = keys.sorted { $0.lexicographicallyPrecedes($1) }
    var result = QueryResult(columns: ["key", "type", "value"], rows: [], isTruncated: sorted.count > limit.rows)
    for start in stride(from: 0, to: min(sorted.count, limit.rows), by: 500) {
      let some = sorted[start..<min(start + 500, sorted.count, limit.rows)]
      let types = try connection.all(some.map { [Array("TYPE".utf8), $0] }, patience: limit.timeout)
      let asked = zip(some, types).map { key, type in Self.whole(key, type.text ?? "none") }
      let values = try connection.all(asked, patience: limit.timeout)
      for (key, (type, value)) in zip(some, zip(types, values)) {
        // Gone since the scan.
        guard let type = type.text, type != "none", value != .null else { continue }
        let shown = type == "string" ? value.text : Digest.of(Self.ordered(value, type)).hex
        result.rows.append([String(decoding: key, as: UTF8.self), type, shown])
      }
    }
    return result
  }

  /// What asks for all that a key holds.
  private static func whole(_ key: [UInt8], _ type: String) -> [[UInt8]] {
    let (name, rest): (String, [String]) =
      switch type {
      case "string": ("GET", [])
      case "hash": ("HGETALL", [])
      case "set": ("SMEMBERS", [])
      case "list": ("LRANGE", ["0", "-1"])
      case "zset": ("ZRANGE", ["0", "-1", "WITHSCORES"])
      case "stream": ("XRANGE", ["-", "+"])
      // A module's type has only this.
      default: ("DUMP", [])
      }
    return [Array(name.utf8), key] + rest.map { Array($0.utf8) }
  }

  /// Its bytes, the same for the same content however the server keeps it.
  private static func ordered(_ value: Reply, _ type: String) -> [UInt8] {
    let elements = value.elements ?? [value]
    let width = type == "hash" && elements.count.isMultiple(of: 2) ? 2 : 1
    var parts = (0..<elements.count / width).map { part in
      (0..<width).flatMap { spelled(elements[part * width + $0]) }
    }
    if type == "hash" || type == "set" { parts.sort { $0.lexicographicallyPrecedes($1) } }
    return parts.flatMap { $0 }
  }

  private static func spelled(_ reply: Reply) -> [UInt8] {
    switch reply {
    case .array(let elements): Array("*\(elements.count):".utf8) + elements.flatMap { spelled($0) }
    case .bytes(let bytes): Array("$\(bytes.count):".utf8) + bytes
    default: Array("+\(reply.text ?? "(nil)"):".utf8)
    }
  }

  private static func upper(_ word: [UInt8]) -> String { String(decoding: word, as: UTF8.self).uppercased() }
}
