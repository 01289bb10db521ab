import Core
import Foundation
import Vault
import Web

/// Opens `rest:https://host:8000/path/`, as restic writes it.
///
/// User and password come from the address, or else from `RESTIC_REST_USERNAME` and `RESTIC_REST_PASSWORD`; further
/// `RESTIC_CACERT` and `RESTIC_TLS_CLIENT_CERT`, files in PEM.
package struct RESTObjectStoreFactory: ObjectStoreFactory {
  package static let scheme = "rest"
  private let environment: [String: String]

  package init(environment: [String: String]) { self.environment = environment }

  package func open(_ location: String) throws(StoreError) -> any ObjectStore {
    guard var parts = URLComponents(string: location), parts.scheme == "http" || parts.scheme == "https",
      let host = parts.host, !host.isEmpty, parts.query == nil, parts.fragment == nil
    else { throw .location("a repository on a REST server is written rest:https://host:8000/path/") }
    var (user, password) = (parts.user, parts.password.map { Secret($0) })
    (parts.user, parts.password) = (nil, nil)
    if user == nil {
      user = environment["RESTIC_REST_USERNAME"].flatMap { $0.isEmpty ? nil : $0 }
      password = environment["RESTIC_REST_PASSWORD"].flatMap { $0.isEmpty ? nil : Secret($0) }
    }
    guard let address = parts.string else { throw .location("a REST server's address can't be understood") }
    let client: WebClient
    do throws(WebFailure) { client = try WebClient(WebTrust(environment)) } catch { throw .location("\(error)") }
    return RESTObjectStore(address, user: user, password: password, client: client)
  }
}
