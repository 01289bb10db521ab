import Core
import DriverKit

/// What can go wrong between two sockets, before it is known what the driver was trying to do.
package enum WireError: SocketFailure, Equatable {
  /// The peer said nothing for this long.
  case silent(Duration)
  /// The connection can't be made, or ended.
  case broken(String)
  /// The server's `-ERR`, such as `Authorization Violation`.
  case refused(String)
  /// JetStream's answer was an error; `code` is its own `err_code`.
  case api(code: Int64, String)
  /// Nobody answers that subject: JetStream is off, for this server or this account.
  case noResponders
  /// The peer doesn't speak this protocol, or says more than it may.
  case garbled(String)
  case cancelled

  /// JetStream's numbers for what is looked at here.
  enum Code {
    static let noMessage: Int64 = 10037
    static let noStream: Int64 = 10059
  }

  /// - Parameters:
  ///   - peer: Address and port, for people.
  ///   - doing: The request's name; never its content, which may be secret or someone's data.
  func driverError(at peer: String, doing: String) -> DriverError {
    switch self {
    case .silent(let limit): return .unreachable("\(peer): no answer to \(doing) within \(limit.brief)")
    case .broken(let why): return .unreachable("\(peer): \(why)")
    case .garbled(let why): return .engineFailed("\(peer) doesn't speak NATS' protocol", log: why)
    case .cancelled: return .cancelled
    case .noResponders:
      return .unsupported("\(peer) has no JetStream, or none for this user's account: nobody answers \(doing)")
    case .api(_, let text): return .engineFailed("\(peer) refused \(doing)", log: text)
    case .refused(let text):
      let words = text.lowercased()
      if words.contains("authorization") || words.contains("authentication") {
        return .authenticationFailed("\(peer): \(text)")
      }
      if words.contains("permissions violation") {
        return .permissionDenied("\(text) at \(peer)", needs: Rights.capture)
      }
      return .engineFailed("\(peer) refused \(doing)", log: text)
    }
  }
}

/// The rights the driver needs, as a server's configuration has them; `docs/drivers/nats.md` has the same lines.
enum Rights {
  static let capture =
    "publish: [\"$JS.API.INFO\", \"$JS.API.STREAM.LIST\", \"$JS.API.STREAM.INFO.*\", \"$JS.API.CONSUMER.LIST.*\", "
    + "\"$JS.API.STREAM.SNAPSHOT.*\", \"$JS.SNAPSHOT.ACK.>\"], subscribe: [\"_INBOX.>\"]"
  /// Following reads every message, as any consumer does.
  static let follow =
    "publish: [\"$JS.API.INFO\", \"$JS.API.STREAM.LIST\", \"$JS.API.STREAM.INFO.*\", \"$JS.API.CONSUMER.LIST.*\", "
    + "\"$JS.API.CONSUMER.CREATE.*\", \"$JS.FC.>\"], subscribe: [\"_INBOX.>\"]"
}

package typealias Socket = TimedSocket<WireError>
