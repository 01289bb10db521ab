import CHiredis
import Core

#if canImport(Glibc)
  import Glibc
#endif

/// One connection to a Redis server through hiredis.
///
/// There are no transactions: each command is acknowledged by the server as it is configured.
final class RedisConnection: StoreConnection {
  private let context: UnsafeMutablePointer<redisContext>
  private let address: String

  init(_ settings: StoreSettings) throws(BankError) {
    let (host, port) = try settings.requireAddress()
    address = "\(host):\(port)"
    guard let opened = redisConnectWithTimeout(host, Int32(port), timeval(tv_sec: 3, tv_usec: 0)) else {
      throw .storeAway("redis: out of memory")
    }
    context = opened
    guard opened.pointee.err == 0 else { throw away() }
    // Longer than any hold: a pause delays, and never fails, a write.
    redisSetTimeout(opened, timeval(tv_sec: 15, tv_usec: 0))
  }

  deinit { redisFree(context) }

  var isCurrent: Bool { context.pointee.err == 0 }
  func begin() {}
  func commit() {}
  func rollback() {}

  /// - Returns: A number, a string, or `nil` for anything else.
  @discardableResult
  func run(_ words: String...) throws(BankError) -> String? {
    var lengths = words.map(\.utf8.count)
    let raw = withCStrings(words) { pointers in
      var arguments: [UnsafePointer<CChar>?] = Array(UnsafeBufferPointer(start: pointers, count: words.count))
      return redisCommandArgv(context, Int32(words.count), &arguments, &lengths)
    }
    guard let raw else { throw away() }
    defer { freeReplyObject(raw) }
    let reply = raw.assumingMemoryBound(to: redisReply.self).pointee
    let text = reply.str.map { String(decoding: UnsafeRawBufferPointer(start: $0, count: reply.len), as: UTF8.self) }
    switch reply.type {
    case REDIS_REPLY_ERROR:
      // A server that loads its data, or is read-only for now, is away; everything else is our mistake.
      let message = text ?? "error"
      let isAway = ["LOADING", "READONLY", "MISCONF", "OOM", "MASTERDOWN"].contains { message.hasPrefix($0) }
      throw isAway ? .storeAway("redis at \(address): \(message)") : .storeRefused("redis: \(message)")
    case REDIS_REPLY_INTEGER: return String(reply.integer)
    default: return text
    }
  }

  private func away() -> BankError {
    let message = withUnsafeBytes(of: context.pointee.errstr) { raw in
      String(decoding: raw.prefix { $0 != 0 }, as: UTF8.self)
    }
    return .storeAway("redis at \(address): \(message)")
  }
}
