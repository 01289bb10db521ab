import Core
import DriverKit
import Foundation
import IO
import S3Client

/// A place in a bucket: what its keys begin with, which may be nothing.
struct BucketPlace: Sendable, Equatable {
  var bucket: String
  /// Empty, or ends with a slash.
  var prefix: String

  /// - Parameter text: `bucket`, `bucket/prefix` or `bucket/prefix/`.
  init?(_ text: String) {
    let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
    guard let bucket = parts.first, S3Address.isBucket(bucket) else { return nil }
    self.bucket = bucket
    var prefix = parts.count > 1 ? parts[1] : ""
    if !prefix.isEmpty, !prefix.hasSuffix("/") { prefix += "/" }
    guard prefix.utf8.count <= 512, prefix.utf8.allSatisfy({ $0 >= 32 && $0 != 127 }), !prefix.hasPrefix("/") else {
      return nil
    }
    self.prefix = prefix
  }
}

/// What the catalog says about one bucket, checked.
struct BucketConfiguration: Sendable, Equatable {
  var store: StoreName
  var scheme: String
  var endpoint: String
  var region: String
  var lookup: S3Address.Lookup
  var place: BucketPlace
  /// Where restores lie beside, and what a swap replaces is kept.
  var workspace: BucketPlace
  var accessKey: SecretReference?
  var secretKey: SecretReference?
  var sessionToken: SecretReference?
  var credentialsFile: String?
  var profile: String?
  var authorityFile: String?
  /// Also what objects were before.
  var takesVersions: Bool
  var takesTags: Bool
  var restoresLocks: Bool
  /// A canned access control list for what is put in place.
  var acl: String?
  var eventsFile: String?
  /// With events: every so many captures the bucket is listed all the same.
  var listEvery: Int64
  var clockSkew: Duration
  var parallel: Int
  var timeout: Duration
  /// Above this an object is read in ranges, several at a time.
  var rangeBytes = 8 << 20
  /// Above this a restored object is sent in parts, and a copy is made in parts.
  var partThresholdBytes: Int64 = 64 << 20
  /// S3 copies no more at once.
  var copyLimitBytes: Int64 = 5 << 30
  /// Entries of one page of a listing.
  var pageCount = 1000

  init(_ configuration: StoreConfiguration) throws(DriverError) {
    let store = configuration.name
    func refuse(_ option: String, _ why: String) -> DriverError { .badOption(store: store, option: option, why: why) }
    self.store = store
    guard let place = BucketPlace(try configuration.required("bucket")) else {
      throw refuse("bucket", "is not a bucket's name, or one with '/' and what keys begin with")
    }
    self.place = place
    region = configuration.string("region") ?? "us-east-1"
    guard region.wholeMatch(of: /[A-Za-z0-9-]{1,64}/) != nil else { throw refuse("region", "is no region's name") }
    let url = configuration.string("endpoint") ?? "https://s3.\(region).amazonaws.com"
    guard let match = url.wholeMatch(of: /(https?):\/\/([^\/]+)\/?/), S3Address.isServer(String(match.2)) else {
      throw refuse("endpoint", "is not http://host:port or https://host")
    }
    (scheme, endpoint) = (String(match.1), String(match.2))
    guard let lookup = S3Address.Lookup(rawValue: configuration.string("lookup") ?? "auto") else {
      throw refuse("lookup", "is none of auto, path, host")
    }
    self.lookup = lookup
    guard let workspace = BucketPlace(configuration.string("workspace") ?? "\(place.bucket)/.salvor/") else {
      throw refuse("workspace", "is not a bucket's name, or one with '/' and what keys begin with")
    }
    self.workspace = workspace
    guard workspace.bucket != place.bucket || !place.prefix.hasPrefix(workspace.prefix) else {
      throw refuse("workspace", "holds the store itself")
    }
    func secret(_ option: String) throws(DriverError) -> SecretReference? {
      guard let text = configuration.string(option) else { return nil }
      guard let reference = SecretReference(text) else {
        throw refuse(option, "is not a secret reference (file:…, env:… or command:…)")
      }
      return reference
    }
    (accessKey, secretKey) = (try secret("accessKey"), try secret("secretKey"))
    sessionToken = try secret("sessionToken")
    guard (accessKey == nil) == (secretKey == nil) else {
      throw refuse(accessKey == nil ? "accessKey" : "secretKey", "is needed: one without the other is no use")
    }
    for option in ["credentialsFile", "authorityFile", "events"] {
      guard configuration.string(option)?.hasPrefix("/") ?? true else {
        throw refuse(option, "is not an absolute path")
      }
    }
    credentialsFile = configuration.string("credentialsFile")
    profile = configuration.string("profile")
    authorityFile = configuration.string("authorityFile")
    eventsFile = configuration.string("events")
    takesVersions = configuration.boolean("versions") ?? false
    guard eventsFile == nil || !takesVersions else {
      throw refuse("events", "tells of no versions: 'versions' needs a listing every time")
    }
    takesTags = configuration.boolean("tags") ?? true
    restoresLocks = configuration.boolean("restoreLocks") ?? false
    acl = configuration.string("acl")
    let lists = ["bucket-owner-full-control", "bucket-owner-read", "private", "authenticated-read", "public-read"]
    guard acl.map({ lists.contains($0) }) ?? true else {
      throw refuse("acl", "is none of \(lists.joined(separator: ", "))")
    }
    listEvery = configuration.integer("listEvery") ?? 24
    guard (1...100_000).contains(listEvery) else { throw refuse("listEvery", "is not between 1 and 100000") }
    func duration(_ option: String, _ fallback: Duration) throws(DriverError) -> Duration {
      guard configuration.string(option) != nil else { return fallback }
      guard let value = configuration.duration(option), value >= .zero, value <= .seconds(3600) else {
        throw refuse(option, "is not a duration such as '5s'")
      }
      return value
    }
    clockSkew = try duration("clockSkew", .zero)
    timeout = try duration("timeout", .seconds(60))
    guard timeout > .zero else { throw refuse("timeout", "is not a duration such as '5s'") }
    parallel = Int(configuration.integer("parallel") ?? 8)
    guard (1...64).contains(parallel) else { throw refuse("parallel", "is not between 1 and 64") }
  }
}

/// Makes drivers for buckets.
package enum BucketDriverFactory: DriverFactory {
  package static var name: DriverName { "bucket" }
  package static var summary: String {
    "Objects of an S3 bucket that a service keeps; at one moment where the bucket keeps versions."
  }
  package static var options: [OptionSchema] {
    [
      OptionSchema(
        "bucket", .string, required: true,
        help: "The bucket, or `bucket/prefix` for the objects whose keys begin with it."),
      OptionSchema(
        "endpoint", .string, help: "The server, such as `https://minio.example:9000`; without it Amazon's."),
      OptionSchema("region", .string, default: "us-east-1", help: "The region that requests are signed for."),
      OptionSchema(
        "lookup", .string, default: "auto", help: "How requests name the bucket: `path`, `host`, or `auto`."),
      OptionSchema(
        "workspace", .string,
        help: "Bucket or `bucket/prefix` for restores beside and what they replace; `.salvor/` in the bucket itself."),
      OptionSchema("accessKey", .secret, help: "Where the access key's id is read from."),
      OptionSchema("secretKey", .secret, help: "Where the secret key is read from."),
      OptionSchema("sessionToken", .secret, help: "Where a temporary key's token is read from."),
      OptionSchema("credentialsFile", .path, help: "A shared file of credentials, in place of keys of one's own."),
      OptionSchema("profile", .string, help: "The profile in the shared file."),
      OptionSchema("authorityFile", .path, help: "Certificates in PEM that sign the server's, for https."),
      OptionSchema(
        "versions", .boolean, default: "false", help: "Take earlier versions and delete markers too, in order."),
      OptionSchema("tags", .boolean, default: "true", help: "Take objects' tags: one request more for each."),
      OptionSchema(
        "restoreLocks", .boolean, default: "false",
        help: "Give restored objects the retention and legal hold they had."),
      OptionSchema(
        "acl", .string,
        help: "A canned access control list for restored objects, such as `bucket-owner-full-control`."),
      OptionSchema(
        "events", .path, help: "A file of S3 event notifications, one JSON document a line, instead of listing."),
      OptionSchema(
        "listEvery", .integer, default: "24", help: "With events: every so many captures the bucket is listed."),
      OptionSchema(
        "clockSkew", .duration, default: "0s", help: "How far the clocks of the bucket's servers may be apart."),
      OptionSchema("parallel", .integer, default: "8", help: "Objects under way at a time."),
      OptionSchema("timeout", .duration, default: "60s", help: "How long to wait for an answer, its bytes aside."),
    ]
  }

  package static func make(
    _ configuration: StoreConfiguration, in environment: DriverEnvironment
  ) throws(DriverError) -> any DataStoreDriver {
    BucketDriver(try BucketConfiguration(configuration), environment)
  }
}
