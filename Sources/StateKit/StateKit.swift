// StateKit
