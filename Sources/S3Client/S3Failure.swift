/// Why a request got no answer, or none that can be used; adapters say it in their own port's words.
package enum S3Failure: Error, Equatable {
  /// The address can't be understood, or nothing usable is there.
  case location(String)
  case permission(String)
  /// Not now: a network, a server.
  case unavailable(String)
  case cancelled
}
