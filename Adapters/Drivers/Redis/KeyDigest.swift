import Core
import DriverKit

extension ScratchServer {
  /// The scheme `redis-keys-v1`: a part per database, and one for functions.
  ///
  /// A key's digest is the SHA-256 of its length in decimal, `:`, the key, the server's own digest of the value (`DEBUG
  /// DIGEST-VALUE`: 40 hexadecimal digits, the same however the value is laid out), `|`, the expiry in Unix
  /// milliseconds or `-`, `|`, and for streams the digest of what `XINFO STREAM … FULL` says beyond the entries
  /// (groups, consumers, pending). A database's is the SHA-256 of its keys' digests in ascending order. Memory: 32
  /// bytes per key.
  ///
  /// Only in ``Mode/persistent``, where time takes nothing away.
  func digest() async throws(DriverError) -> ContentDigest {
    let databases = databases
    return try await blocking { (connection) throws(WireError) in
      var parts: [String: ContentDigest.Part] = [:]
      let present = Info(try connection.call("INFO", "keyspace").text ?? "").keyspace.keys.filter { $0 != databases }
      for index in present.sorted() {
        parts["db\(index)"] = try Self.digest(of: index, expiriesIn: databases, connection)
      }
      let functions = try functions(connection)
      if functions.count > 0 { parts["functions"] = functions }
      return ContentDigest(scheme: "redis-keys-v1", parts: parts)
    }
  }

  private static func digest(
    of database: Int, expiriesIn expiries: Int, _ connection: Connection
  ) throws(WireError) -> ContentDigest.Part {
    var digests: [Digest] = []
    var cursor = Array("0".utf8)
    repeat {
      let scan = try answers(
        connection, [["SELECT", String(database)], ["SCAN", String(decoding: cursor, as: UTF8.self), "COUNT", "512"]])
      guard let page = scan[1].elements, page.count == 2, case .bytes(let next) = page[0], let list = page[1].elements
      else { throw .garbled("SCAN") }
      cursor = next
      let keys = list.compactMap { reply -> [UInt8]? in if case .bytes(let key) = reply { key } else { nil } }
      if !keys.isEmpty { digests += try entries(keys, database, expiries, connection) }
    } while cursor != Array("0".utf8)
    // A scan may name a key twice while the server's table grows; nothing is written, so it digests the same.
    digests.sort()
    var running = RunningDigest()
    var count: Int64 = 0
    var previous: Digest?
    for digest in digests where digest != previous {
      running.update(digest.bytes)
      count += 1
      previous = digest
    }
    return .init(digest: running.finish().hex, count: count)
  }

  private static func entries(
    _ keys: [[UInt8]], _ database: Int, _ expiries: Int, _ connection: Connection
  ) throws(WireError) -> [Digest] {
    var commands: [[[UInt8]]] = [words(["DEBUG", "DIGEST-VALUE"]) + keys]
    commands += keys.map { words(["TYPE"]) + [$0] }
    commands += [
      words(["SELECT", String(expiries)]), words(["HMGET", "db\(database)"]) + keys,
      words(["SELECT", String(database)]),
    ]
    let replies = try connection.all(commands)
    for case .error(let text) in replies { throw .refused(text) }
    guard let values = replies[0].elements, let times = replies[keys.count + 2].elements, values.count == keys.count,
      times.count == keys.count
    else { throw .garbled("DEBUG DIGEST-VALUE") }
    var result: [Digest] = []
    for (index, key) in keys.enumerated() {
      var running = RunningDigest()
      running.update("\(key.count):")
      running.update(key)
      running.update("\(values[index].text ?? "")|\(times[index].text ?? "-")|")
      if replies[index + 1].text == "stream" {
        let full = try connection.call(words: words(["XINFO", "STREAM"]) + [key] + words(["FULL", "COUNT", "0"]))
        running.update(Digest.of(spelling(full)).hex)
      }
      result.append(running.finish())
    }
    return result
  }

  private func functions(_ connection: Connection) throws(WireError) -> ContentDigest.Part {
    let replies = try connection.all([Self.words(["FUNCTION", "LIST", "WITHCODE"])])
    guard let libraries = replies.first?.elements else { return .init(digest: "", count: 0) }
    let sources = libraries.map { library -> String in
      let fields = library.elements ?? []
      var text = ""
      for index in stride(from: 0, to: fields.count - 1, by: 2) where fields[index].text != "functions" {
        text += "\(fields[index].text ?? "")=\(fields[index + 1].text ?? "")\n"
      }
      return Digest.of(text).hex
    }
    return .init(digest: Digest.of(sources.sorted().joined()).hex, count: Int64(libraries.count))
  }

  /// A nested answer in one spelling; how a stream's radix tree is laid out isn't content.
  private static func spelling(_ reply: Reply) -> String {
    switch reply {
    case .array(let elements):
      var text = "["
      var index = 0
      while index < elements.count {
        if let name = elements[index].text, name.hasPrefix("radix-tree-"), index + 1 < elements.count {
          index += 2
          continue
        }
        text += spelling(elements[index]) + ","
        index += 1
      }
      return text + "]"
    case .null: return "-"
    case .bytes(let bytes): return "\(bytes.count):" + Hex.encode(bytes)
    default: return reply.text ?? ""
    }
  }

  private static func answers(_ connection: Connection, _ commands: [[String]]) throws(WireError) -> [Reply] {
    let replies = try connection.all(commands.map(words))
    for case .error(let text) in replies { throw .refused(text) }
    return replies
  }

  private static func words(_ texts: [String]) -> [[UInt8]] { texts.map { Array($0.utf8) } }
}
