import Core
import DriverKit

/// What can go wrong between two sockets, before it is known what the driver was trying to do.
enum WireError: SocketFailure, Equatable {
  /// The peer said nothing for this long.
  case silent(Duration)
  /// The connection can't be made, or ended.
  case broken(String)
  /// The server answered with an error; the text is its own, such as `NOPERM this user has no permissions …`.
  case refused(String)
  /// The peer doesn't speak this protocol.
  case garbled(String)
  case cancelled

  /// - Parameters:
  ///   - peer: Address and port, for people.
  ///   - doing: The command's name; never its arguments, which may be secret or someone's data.
  func driverError(at peer: String, doing: String) -> DriverError {
    switch self {
    case .silent(let limit): return .unreachable("\(peer): no answer to \(doing) within \(limit.brief)")
    case .broken(let why): return .unreachable("\(peer): \(why)")
    case .garbled(let why): return .engineFailed("\(peer) doesn't speak Redis' protocol", log: why)
    case .cancelled: return .cancelled
    case .refused(let text):
      let code = text.prefix { $0 != " " }
      switch code {
      case "NOAUTH": return .authenticationFailed("\(peer) wants a password")
      case "WRONGPASS": return .authenticationFailed("\(peer) doesn't know this user and password")
      case "NOPERM": return .permissionDenied("\(doing) at \(peer)", needs: Rights.capture)
      case "LOADING": return .unreachable("\(peer): the server is still loading its data")
      case "BUSY": return .unreachable("\(peer): a script keeps the server busy")
      case "DENIED": return .unreachable("\(peer): protected mode lets only this machine in")
      default:
        if doing == "AUTH" { return .authenticationFailed("\(peer) doesn't take this user and password") }
        return .engineFailed("\(peer) refused \(doing)", log: text)
      }
    }
  }
}

/// The rights the driver needs, as `ACL SETUSER` takes them; `docs/drivers/redis.md` has the same lines.
enum Rights {
  static let capture = "ACL SETUSER salvor … +ping +info +psync +replconf +client|pause +client|unpause +config|get"
  static let follow = "ACL SETUSER salvor … +ping +info +psync +replconf +time +publish &salvor:*"
  static let stop = "+shutdown"
  static let query = "~* +@read -@dangerous +command|info"
}

typealias Socket = TimedSocket<WireError>
