import Core
import DriverKit

/// What can go wrong between us and a server, before it is known what the driver was trying to do.
package enum WireError: SocketFailure, Equatable {
  /// The peer said nothing for this long.
  case silent(Duration)
  /// The connection can't be made, or ended.
  case broken(String)
  /// The server closed the channel or the connection, with AMQP's own code, such as 404.
  case refused(code: UInt16, String)
  /// The peer doesn't speak this protocol, or says more than it may.
  case garbled(String)
  case cancelled

  /// - Parameters:
  ///   - peer: Address and port, for people.
  ///   - doing: The request's name; never its content.
  func driverError(at peer: String, doing: String) -> DriverError {
    switch self {
    case .silent(let limit): .unreachable("\(peer): no answer to \(doing) within \(limit.brief)")
    case .broken(let why): .unreachable("\(peer): \(why)")
    case .refused(let code, let text): .engineFailed("\(peer) refused \(doing)", log: "\(code) \(text)")
    case .garbled(let why): .engineFailed("\(peer) doesn't speak AMQP 0-9-1", log: why)
    case .cancelled: .cancelled
    }
  }
}

package typealias Socket = TimedSocket<WireError>
