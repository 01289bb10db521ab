import Core
import DriverKit
import IO

extension RedisDriver {
  /// One reading command, its words parted by blanks and kept together by quotes; or `SCANHASH pattern field`, which
  /// gives that field of every hash whose key matches. `DB 3 …` before either looks into database 3.
  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    guard var words = CommandLine.split(text), !words.isEmpty else {
      throw .queryFailed("the command is empty, or a quote is not closed")
    }
    var database: String?
    if Self.upper(words[0]) == "DB", words.count > 2 {
      database = String(decoding: words[1], as: UTF8.self)
      words.removeFirst(2)
    }
    let connection = try await connect()
    let command = words
    do throws(WireError) {
      return try await environment.pool.run { [database] () throws(WireError) -> QueryResult in
        if let database { _ = try connection.call("SELECT", database) }
        if Self.upper(command[0]) == "SCANHASH" {
          guard command.count == 3 else { throw .refused("SCANHASH takes a pattern and a field") }
          return try Self.scanHash(connection, pattern: command[1], field: command[2], limit)
        }
        try Self.refuseWriting(command, connection)
        let reply = try connection.call(words: command, patience: limit.timeout)
        return Self.rows(reply, of: Self.upper(command[0]), limit)
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

  private static func upper(_ word: [UInt8]) -> String { String(decoding: word, as: UTF8.self).uppercased() }
}
